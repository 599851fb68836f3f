//! `$(NAME)` in commands, arguments, values and subpaths (spec 05 §6, rows 8, 10).

use std::borrow::Cow;

use k8s_openapi::api::core::v1::Container;
use thiserror::Error;

use crate::edged::context::SpecError;

/// Values that name each other grow without end: a few lines of a pod can ask for more than a node has.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum TooLong {
    /// One text.
    #[error("longer than 128 KiB with its references expanded")]
    Text,
    /// All texts of a container.
    #[error("variables and command of the container are longer than 2 MiB with their references expanded")]
    Container,
}

/// Bytes that expansion may still make for one container.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget(usize);

impl Default for Budget {
    fn default() -> Self {
        Self(MAX_CONTAINER)
    }
}

/// Replaces `$(NAME)`; `$$` stands for a dollar sign, and what has no value stays as it is written.
pub(super) fn expand<'a>(
    text: &str,
    budget: &mut Budget,
    value: impl Fn(&str) -> Option<&'a str>,
) -> Result<String, TooLong> {
    expand_with(text, budget, |name| -> Result<Cow<'a, str>, TooLong> {
        Ok(match value(name) {
            Some(value) => Cow::Borrowed(value),
            None => Cow::Owned(format!("$({name})")),
        })
    })
}

/// The same for commands of probes, which see only the values written in the pod itself, each expanded by those before it.
pub(crate) fn expand_static(words: &[String], container: &Container) -> Result<Vec<String>, TooLong> {
    let mut budget = Budget::default();
    let mut known = Vec::<(&str, String)>::new();
    for variable in container.env.iter().flatten() {
        if let Some(value) = variable.value.as_deref().filter(|value| !value.is_empty()) {
            let value = expand(value, &mut budget, |name| find(&known, name))?;
            known.push((&variable.name, value));
        }
    }
    let mut expanded = Vec::with_capacity(words.len());
    for word in words {
        expanded.push(expand(word, &mut budget, |name| find(&known, name))?);
    }
    Ok(expanded)
}

/// The last of a name wins.
fn find<'a>(known: &'a [(&str, String)], name: &str) -> Option<&'a str> {
    known
        .iter()
        .rev()
        .find(|(known, _)| *known == name)
        .map(|(_, value)| value.as_str())
}

/// The same for subpaths, where a name without a value would lead to a path that nobody meant.
pub(super) fn expand_path<'a>(text: &str, value: impl Fn(&str) -> Option<&'a str>) -> Result<String, SpecError> {
    expand_with(
        text,
        &mut Budget::default(),
        |name| -> Result<Cow<'a, str>, SpecError> {
            match value(name) {
                Some(value) => Ok(Cow::Borrowed(value)),
                None => Err(SpecError::config(format!("missing value for {name:?}"))),
            }
        },
    )
}

fn expand_with<'a, E: From<TooLong>>(
    text: &str,
    budget: &mut Budget,
    value: impl Fn(&str) -> Result<Cow<'a, str>, E>,
) -> Result<String, E> {
    let mut all = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        append(&mut all, before, budget)?;
        if let Some(tail) = after.strip_prefix('$') {
            append(&mut all, "$", budget)?;
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|tail| tail.split_once(')')) {
            append(&mut all, &value(name)?, budget)?;
            rest = tail;
        } else {
            append(&mut all, "$", budget)?;
            rest = after;
        }
    }
    append(&mut all, rest, budget)?;
    Ok(all)
}

fn append(all: &mut String, part: &str, budget: &mut Budget) -> Result<(), TooLong> {
    if part.len() > MAX_TEXT.saturating_sub(all.len()) {
        return Err(TooLong::Text);
    }
    budget.0 = budget.0.checked_sub(part.len()).ok_or(TooLong::Container)?;
    all.push_str(part);
    Ok(())
}

/// The kernel takes no longer variable or argument (`MAX_ARG_STRLEN`).
const MAX_TEXT: usize = 128 * 1024;
/// All that the kernel takes with the usual limit of the stack.
const MAX_CONTAINER: usize = 2 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expansion_is_that_of_kubernetes() {
        let value = |name: &str| match name {
            "A" => Some("1"),
            "EMPTY" => Some(""),
            "REF" => Some("$(A)"),
            _ => None,
        };
        for (text, expected) in [
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$$$$(A)", "$$(A)"),
            ("$(NONE)", "$(NONE)"),
            ("$(EMPTY)", ""),
            ("$(REF)", "$(A)"),
            ("$(A", "$(A"),
            ("$A", "$A"),
            ("cost 5$", "cost 5$"),
            ("$)", "$)"),
            ("$()", "$()"),
            ("\\$(A)", "\\1"),
            ("ä$(A)ö", "ä1ö"),
        ] {
            let expanded = expand(text, &mut Budget::default(), value);
            assert_eq!(expanded.as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn variables_that_multiply_are_refused() {
        let variables = |count: usize| {
            let value = |n: usize| match n {
                0 => "x".repeat(16),
                n => format!("$(A{})", n - 1).repeat(64),
            };
            let env = (0..count).map(|n| k8s_openapi::api::core::v1::EnvVar {
                name: format!("A{n}"),
                value: Some(value(n)),
                ..Default::default()
            });
            Container {
                env: Some(env.collect()),
                ..Default::default()
            }
        };
        let words = ["$(A2)".to_owned()];
        let expanded = expand_static(&words, &variables(3)).expect("expanded");
        assert_eq!(expanded, ["x".repeat(16 * 64 * 64)]);
        assert_eq!(expand_static(&words, &variables(10)), Err(TooLong::Text));
    }

    #[test]
    fn what_grows_has_an_end() {
        let long = "x".repeat(MAX_TEXT / 2);
        let value = |_: &str| Some(long.as_str());
        let mut budget = Budget::default();
        for _ in 0..MAX_CONTAINER / MAX_TEXT {
            let expanded = expand("$(A)$(A)", &mut budget, value).expect("expanded");
            assert_eq!(expanded.len(), MAX_TEXT);
        }
        assert_eq!(expand("y", &mut budget, value), Err(TooLong::Container));
        let mut budget = Budget::default();
        assert_eq!(expand("$(A)$(A)y", &mut budget, value), Err(TooLong::Text));
        assert!(expand_path("$(A)$(A)$(A)", value).is_err_and(|error| error.message.contains("128 KiB")));
    }
}
