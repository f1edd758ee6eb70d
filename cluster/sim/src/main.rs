//! `damask sim` as a program of its own, for those who build nothing else. It must never do more.

/// Most of what a simulation does between two events is to allocate little and to free it.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    std::process::exit(damask_sim::main(&args));
}
