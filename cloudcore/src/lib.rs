//! cloudcore

pub mod cloudhub;
pub mod kubernetes;
