//! Forms of older releases.

use crate::decode::Reader;
use crate::yaml::Node;

pub(super) fn translate(_node: &mut Node, _reader: &mut Reader) {}
