use damask_learner::RowDecoder;
use damask_types::row::encode_row;
use damask_types::schema::IntWidth;
use damask_types::*;
fn column(id: i64, ty: ColumnType) -> ColumnSchema {
    ColumnSchema { id: ColumnId(id), name: format!("c{id}"), ty, nullable: true, default: None, origin_default: None, auto_increment: false, on_update_now: false, comment: String::new() }
}
fn main() {
    let int = || ColumnType::Int { width: IntWidth::Big, unsigned: false };
    let dec = || ColumnType::Decimal { precision: 15, scale: 2 };
    let text = || ColumnType::VarChar { len: 44 };
    let types = vec![int(), int(), int(), int(), dec(), dec(), dec(), dec(), text(), text(), ColumnType::Date, ColumnType::Date, ColumnType::Date, text(), text(), text()];
    let columns: Vec<_> = types.into_iter().zip(1..).map(|(t, i)| column(i, t)).collect();
    let rows: Vec<Vec<u8>> = (0..10_000i64).map(|i| {
        let d = |v: i64| Datum::Decimal(Decimal { unscaled: v as i128, scale: 2 });
        let t = |s: &str| Datum::Text(s.into());
        let datums = [Datum::Int(i), Datum::Int(i * 77 % 20000), Datum::Int(i % 1000), Datum::Int(i % 7), d(i * 100), d(i * 9999), d(4), d(6), t("N"), t("O"), Datum::Date(9000), Datum::Date(9100), Datum::Date(9050), t("DELIVER IN PERSON"), t("TRUCK"), t("carefully final deposits detect slyly")];
        let cells: Vec<_> = columns.iter().map(|c| c.id).zip(&datums).collect();
        encode_row(&cells)
    }).collect();
    let mut decoder = RowDecoder::new(&columns).unwrap().with_newest(ColumnId(16));
    for _ in 0..5 {
        let start = std::time::Instant::now();
        let mut n = 0;
        for _ in 0..50 {
            decoder.reserve(rows.len());
            for (i, row) in rows.iter().enumerate() { decoder.append_row(i as i64, row).unwrap(); }
            n += decoder.finish().unwrap().columns.num_rows();
        }
        let s = start.elapsed().as_secs_f64();
        println!("{:.1} M rows/s, {:.1} M cells/s", n as f64 / s / 1e6, n as f64 * 16.0 / s / 1e6);
    }
}
