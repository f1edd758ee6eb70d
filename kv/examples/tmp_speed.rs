//! temp
use damask_kv::*;
use damask_types::*;
use std::time::Instant;
fn main() {
    for kind in [EngineKind::Memory, EngineKind::Fjall, EngineKind::Rocks] {
        let dir = tempfile::tempdir().unwrap();
        let e = open(kind, &dir.path().join("x"), &EngineConfig::default()).unwrap();
        let n = 1_000_000i64;
        let t = Instant::now();
        for b in 0..n / 500 {
            let mut r = Vec::new();
            let mut u = Vec::new();
            for h in b * 500..(b + 1) * 500 {
                let key = key::row_key(TableId(100), h);
                let s = Timestamp(1000 + b as u64 * 10);
                r.push(Record::Lock { key: key.clone(), lock: Lock::new(LockKind::Put, key.clone(), s, 3000) });
                u.push(Record::Unlock { key: key.clone() });
                u.push(Record::Write { key, commit_ts: s.next(), write: Write::new(WriteKind::Put, s, Some(vec![(h % 251) as u8; 100])) });
            }
            e.write(records_to_batch(&r)).unwrap();
            e.write(records_to_batch(&u)).unwrap();
        }
        println!("{kind}: load {:.0} rows/s", n as f64 / t.elapsed().as_secs_f64());
        for pass in 0..3 {
            if pass == 1 { let t = Instant::now(); e.sync().unwrap(); println!("sync {:?}", t.elapsed()); }
            let reader = MvccReader::new(e.snapshot());
            let t = Instant::now();
            let mut scan = reader.scanner(&key::row_range(TableId(100)), Timestamp(u64::MAX - 1)).unwrap();
            println!("  open scan {:?}", t.elapsed());
            let mut rows = Rows::default();
            let mut total = 0;
            loop {
                rows.clear();
                match scan.next_block(1024, &mut rows).unwrap() { Read::Ok(0) => break, Read::Ok(k) => total += k, Read::Blocked(_) => panic!() }
            }
            assert_eq!(total as i64, n);
            println!("  scan {:.0} rows/s", n as f64 / t.elapsed().as_secs_f64());
            let t = Instant::now();
            let mut h = 1i64;
            for _ in 0..100_000 { h = (h * 48271) % 999_983; let k = key::row_key(TableId(100), h); match reader.get(&k, Timestamp(u64::MAX - 1)).unwrap() { Read::Ok(Some(_)) => {}, o => panic!("{o:?}") } }
            println!("  get {:.2} us", t.elapsed().as_secs_f64() * 10.0);
            let t = Instant::now();
            println!("  estimate {:?} {:?}", e.estimate(Cf::Write, b"", b"").unwrap(), t.elapsed());
        }
        println!("{:?}", e.statistics());
        let s = std::fs::read_to_string("/proc/self/status").unwrap();
        println!("{}", s.lines().find(|l| l.starts_with("VmRSS")).unwrap());
    }
}
