//! `damask sim` as a program of its own, for those who build nothing else. It must never do more.

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    std::process::exit(damask_sim::main(&args));
}
