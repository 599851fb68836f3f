//! cloudcore

pub mod cloudhub;
