//! Tasks of the project: codegen, tidy, ci, tables, show.

fn main() {}
