//! The seeds of the fuzz target pass through the target's own reader.

use super::content;
use super::rule::{Rule, rule};

#[allow(unreachable_pub)]
#[path = "../../../../fuzz/src/requests.rs"]
mod readers;
#[test]
fn authorizer_content() {
    crate::replay::replay("authorizer_content", readers::request);
}
