//! keadm
fn main() {}
