//! cloudcore

pub mod cloudhub;
pub mod edgecontroller;
pub mod informers;
pub mod kubernetes;
pub mod objectsync;
pub mod synccontroller;
