//! `$(NAME)` in commands, arguments, values and subpaths (spec 05 §6, rows 8, 10).

use k8s_openapi::api::core::v1::Container;

use crate::edged::context::SpecError;

/// Replaces `$(NAME)`; `$$` stands for a dollar sign, and what has no value stays as it is written.
pub(super) fn expand<'a>(text: &str, value: impl Fn(&str) -> Option<&'a str>) -> String {
    expand_with(text, |name| {
        Ok(value(name).map_or_else(|| format!("$({name})"), ToOwned::to_owned))
    })
    .unwrap_or_default()
}

/// The same for commands of probes, which see only the values written in the pod itself, each expanded by those before it.
pub(crate) fn expand_static(text: &str, container: &Container) -> String {
    let mut known = Vec::<(&str, String)>::new();
    for variable in container.env.iter().flatten() {
        if let Some(value) = variable.value.as_deref().filter(|value| !value.is_empty()) {
            let value = expand(value, |name| find(&known, name));
            known.push((&variable.name, value));
        }
    }
    expand(text, |name| find(&known, name))
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
    expand_with(text, |name| {
        value(name)
            .map(ToOwned::to_owned)
            .ok_or_else(|| SpecError::config(format!("missing value for {name:?}")))
    })
}

fn expand_with(text: &str, value: impl Fn(&str) -> Result<String, SpecError>) -> Result<String, SpecError> {
    let mut all = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        all.push_str(before);
        if let Some(tail) = after.strip_prefix('$') {
            all.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|tail| tail.split_once(')')) {
            all.push_str(&value(name)?);
            rest = tail;
        } else {
            all.push('$');
            rest = after;
        }
    }
    all.push_str(rest);
    Ok(all)
}

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
            assert_eq!(expand(text, value), expected, "{text}");
        }
    }
}
