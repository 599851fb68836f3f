//! What cloudcore's authorizer reads of the requests of edges, without the hub around it. The module has the name that it has in
//! cloudcore, since its parts are visible up to there.

#[path = "../../cloudcore/src/cloudhub/authorizer/content.rs"]
mod content;
#[path = "requests.rs"]
pub mod readers;
#[path = "../../cloudcore/src/cloudhub/authorizer/request.rs"]
mod request;
#[path = "../../cloudcore/src/cloudhub/authorizer/rule.rs"]
mod rule;

use rule::{Rule, rule};
