//! Logs, exec, port-forward and metrics of edges, for an API server that takes cloudcore for their kubelets.

pub mod certificates;
pub mod iptablesmanager;
pub mod tunnelport;
