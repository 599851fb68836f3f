//! What a file has wrong, in the words of the Go programs with line numbers added.

use std::fmt;

/// One thing that keeps a program from starting with this file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it stands; `None` when the file does not set the key or cannot be read at all.
    pub line: Option<usize>,
    /// Full path of the key, `modules.cloudHub.https.port`; empty when it is about the whole file.
    pub path: String,
    /// The field's name as the Go programs print it, `port`; equal to `path` for what only we check.
    pub field: String,
    /// The refused value as it is printed; empty when there is none.
    pub value: String,
    /// Why it is refused.
    pub reason: String,
}

/// Something to be looked at that does not keep the program from starting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Where it stands.
    pub line: Option<usize>,
    /// Full path of the key.
    pub path: String,
    /// What was done with it.
    pub reason: String,
    /// Whether the key is a good one that nothing reads here: whoever sets it may be told so and go on.
    pub has_no_effect: bool,
}

/// All that a file has wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problem {
    pub(crate) fn file(line: Option<usize>, reason: String) -> Self {
        Self {
            line,
            path: String::new(),
            field: String::new(),
            value: String::new(),
            reason,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        if !self.value.is_empty() {
            write!(f, "Invalid value: {}: ", self.value)?;
        }
        f.write_str(&self.reason)?;
        let path = if self.path == self.field {
            ""
        } else {
            self.path.as_str()
        };
        match (path, self.line) {
            ("", None) => Ok(()),
            ("", Some(line)) => write!(f, " (line {line})"),
            (path, None) => write!(f, " ({path}, not set in the file)"),
            (path, Some(line)) => write!(f, " ({path}, line {line})"),
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.reason)?;
        self.line.map_or(Ok(()), |line| write!(f, " (line {line})"))
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[\n")?;
        for problem in &self.0 {
            writeln!(f, "  {problem}")?;
        }
        f.write_str("]")
    }
}

impl std::error::Error for Problems {}

/// A string as Go prints it in a message.
pub(crate) fn quoted(text: &str) -> String {
    format!("{text:?}")
}
