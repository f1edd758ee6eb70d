//! How much a versioned read costs beside a bare RocksDB read of the same bytes, measured in one
//! run: `cargo run --release -p damask-kv --example read_speed [PART]`. It must never be taken for
//! a bench of the machine: only the ratios mean something.

#[cfg(feature = "rocksdb")]
mod with_rocksdb;

fn main() {
    #[cfg(feature = "rocksdb")]
    with_rocksdb::main();
    #[cfg(not(feature = "rocksdb"))]
    println!("this build has no RocksDB");
}
