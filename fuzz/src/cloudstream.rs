//! What cloudcore's stream server reads of its callers and of edges, without the server around it. The module has the name that it has
//! in cloudcore, since its parts are visible up to there.

#[path = "../../cloudcore/src/cloudstream/streamserver/head.rs"]
mod head;
#[path = "../../cloudcore/src/cloudstream/streamserver/lastword/mod.rs"]
mod lastword;
#[path = "../../cloudcore/src/cloudstream/looks.rs"]
mod looks;
#[path = "kubelet.rs"]
pub mod readers;
#[path = "../../cloudcore/src/cloudstream/streamserver/refusal.rs"]
mod refusal;

use head::Head;
use lastword::{Form, LastWord};
