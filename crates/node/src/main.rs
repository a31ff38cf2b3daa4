//! The `hyperion` binary.

fn main() -> std::process::ExitCode {
    hyperion_node::cli::main()
}
