//! The section of the webhook.

use crate::decode::section;

section! {
    /// `modules.webhook`: converts devices between v1alpha2 and v1beta1 for the API server, and checks them. All of it is only ours.
    pub struct Webhook {
        /// Whether the module runs.
        "enable" always enable: bool = true;
        /// Address to listen on.
        "address" omit address: String = "0.0.0.0".into();
        /// TCP port, HTTPS; the Service `kubeedge/cloudcore` has the same.
        "port" omit port: u32 = 10006;
        /// How API servers reach it, `https://HOST:PORT`. Empty: by the Service when cloudcore runs in the cluster with its account, else
        /// by the first advertised address.
        "url" omit url: String = String::new();
    }
}
