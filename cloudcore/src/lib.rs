//! The modules of cloudcore, from the bottom up: the API ([`kubernetes`]), what it holds ([`informers`], [`objectsync`]), the sessions
//! ([`cloudhub`]), the controllers ([`edgecontroller`], [`synccontroller`]) and the monitor server ([`monitor`]).

pub mod cloudhub;
pub mod cluster;
pub mod edgecontroller;
pub mod informers;
pub mod kubernetes;
pub mod monitor;
pub mod objectsync;
pub mod synccontroller;
