//! Where in the text a value stands.

use std::ops::Range;

use granit_parser::{Event, Parser};

/// An open list or mapping on the way to the value.
enum Level {
    /// A list: nothing below it is looked for.
    List,
    /// A mapping with the key whose value comes next: the part of the path it matches, and where the key ends.
    Map { key: Option<(bool, usize)> },
}

/// The bytes of the scalar at `path` of the first document. For a value that is not written at all they are empty and stand
/// behind the key's colon.
pub(crate) fn locate(text: &str, path: &[&str]) -> Option<Range<usize>> {
    let (last, parents) = path.split_last()?;
    let mut levels: Vec<Level> = Vec::new();
    // How many of the outermost levels are mappings on the path.
    let mut on_path = 0_usize;
    let mut found = None;
    for next in Parser::new_from_str(text) {
        let (event, span) = next.ok()?;
        let depth = levels.len();
        match event {
            Event::Scalar(value, _, _, _) => {
                let range = span.byte_range()?;
                match levels.last_mut() {
                    Some(Level::Map { key }) => match key.take() {
                        None => {
                            let wanted = if depth > parents.len() {
                                Some(last)
                            } else {
                                parents.get(depth - 1)
                            };
                            let fits = depth == on_path && wanted.is_some_and(|w| value.eq_ignore_ascii_case(w));
                            *key = Some((fits, range.end));
                        }
                        Some((true, key_end)) if depth == path.len() => {
                            found = Some(if range.is_empty() {
                                behind_colon(text, key_end)?
                            } else {
                                range
                            });
                        }
                        Some(_) => {}
                    },
                    Some(Level::List) | None => {}
                }
            }
            Event::MappingStart(..) => {
                let enters = match levels.last_mut() {
                    None => true,
                    Some(Level::Map { key }) => key.take().is_some_and(|(fits, _)| fits) && depth < path.len(),
                    Some(Level::List) => false,
                };
                if enters && on_path == depth {
                    on_path += 1;
                }
                levels.push(Level::Map { key: None });
            }
            Event::SequenceStart(..) => {
                if let Some(Level::Map { key }) = levels.last_mut() {
                    *key = None;
                }
                levels.push(Level::List);
            }
            Event::MappingEnd | Event::SequenceEnd => {
                levels.pop();
                on_path = on_path.min(levels.len());
            }
            Event::Alias(_) => {
                if let Some(Level::Map { key }) = levels.last_mut() {
                    *key = None;
                }
            }
            Event::DocumentEnd => break,
            _ => {}
        }
    }
    found
}

fn behind_colon(text: &str, key_end: usize) -> Option<Range<usize>> {
    let colon = key_end + text.get(key_end..)?.find(':')? + 1;
    Some(colon..colon)
}
