//! Errors as log lines.

use std::error::Error;
use std::fmt::Write as _;

/// The error and all its sources on one line, joined by `: `. An error's own text never repeats its source.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            let _ = write!(text, ": {cause_text}");
        }
        source = cause.source();
    }
    text
}
