//! The numbered steps that operators watch.

/// Prints steps as they begin; on standard error, as the Go tool does.
#[derive(Debug, Default)]
pub(crate) struct Steps(u32);

impl Steps {
    pub(crate) fn begin(&mut self, text: &str) {
        self.0 += 1;
        eprintln!("{}. {text}", self.0);
    }

    /// Something to know that stops nothing.
    pub(crate) fn note(text: &str) {
        eprintln!("   {text}");
    }

    /// Something the operator asked for that has no effect, or not the one they may expect.
    pub(crate) fn warn(text: &str) {
        eprintln!("   Warning: {text}");
    }
}
