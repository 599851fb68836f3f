//! cloudcore

pub mod cloudhub;
pub mod informers;
pub mod kubernetes;
