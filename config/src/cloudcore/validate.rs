//! Checks.

use super::CloudCore;
use crate::Files;
use crate::decode::Reader;

pub(super) fn check(_config: &mut CloudCore, _files: &dyn Files, _reader: &mut Reader) {}
