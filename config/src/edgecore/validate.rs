//! Checks.

use super::EdgeCore;
use crate::Files;
use crate::decode::Reader;

pub(super) fn check(_config: &mut EdgeCore, _files: &dyn Files, _reader: &mut Reader) {}
