//! The `epmd-guard` command.
fn main() {}
