//! Text to node tree, by the YAML event parser; every limit is checked before memory is taken.

use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle, Tag};

use super::{Entry, Kind, Node, scalar};
use crate::Problem;

/// The longest file accepted, in bytes; a full configuration has about 6,000.
const MAX_BYTES: usize = 1 << 20;
/// The most values in a file, aliases counted at each use so that nested aliases cannot multiply.
const MAX_NODES: usize = 10_000;
/// The deepest nesting; the configuration trees have seven levels.
const MAX_DEPTH: usize = 64;

/// Parses the first document of `text`. An empty text is an empty mapping.
pub(crate) fn parse(text: &str) -> Result<Node, Problem> {
    if text.len() > MAX_BYTES {
        return Err(Problem::file(
            None,
            format!("the file has {} bytes, at most {MAX_BYTES} are accepted", text.len()),
        ));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder::default();
    for next in Parser::new_from_str(text) {
        let (event, span) =
            next.map_err(|e| Problem::file(Some(e.marker().line()), format!("not YAML: {}", e.info())))?;
        if builder.event(event, span.start.line())? == Step::Finished {
            break;
        }
    }
    let node = builder.root.unwrap_or_else(|| Node::new(1, Kind::Map(Vec::new())));
    Ok(if node.is_null() {
        Node::new(node.line, Kind::Map(Vec::new()))
    } else {
        node
    })
}

#[derive(PartialEq)]
enum Step {
    More,
    Finished,
}

/// A list or mapping whose end has not been seen.
struct Open {
    node: Node,
    anchor: usize,
    /// In a mapping: the key that waits for its value.
    key: Option<(String, usize)>,
    nodes: usize,
    depth: usize,
}

struct Anchored {
    node: Node,
    nodes: usize,
    depth: usize,
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, Anchored>,
    root: Option<Node>,
    nodes: usize,
}

impl Builder {
    fn event(&mut self, event: Event<'_>, line: usize) -> Result<Step, Problem> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.check(line, 1, 1)?;
                self.nodes += 1;
                let kind = scalar_kind(&text, style, tag.as_deref());
                self.finished(Node::new(line, kind), anchor, 1, 1)?;
            }
            Event::SequenceStart(_, anchor, _) => self.start(Node::new(line, Kind::List(Vec::new())), anchor)?,
            Event::MappingStart(_, anchor, _) => self.start(Node::new(line, Kind::Map(Vec::new())), anchor)?,
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(open) = self.open.pop() {
                    self.finished(open.node, open.anchor, open.nodes, open.depth)?;
                }
            }
            Event::Alias(id) => {
                let Some(found) = self.anchors.get(&id) else {
                    return Err(Problem::file(
                        Some(line),
                        "an alias refers to the value it stands in".to_owned(),
                    ));
                };
                self.check(line, found.nodes, found.depth)?;
                let (mut node, nodes, depth) = (found.node.clone(), found.nodes, found.depth);
                node.line = line;
                self.nodes += nodes;
                self.finished(node, 0, nodes, depth)?;
            }
            Event::DocumentEnd => return Ok(Step::Finished),
            _ => {}
        }
        Ok(Step::More)
    }

    fn check(&self, line: usize, nodes: usize, depth: usize) -> Result<(), Problem> {
        if self.nodes.saturating_add(nodes) > MAX_NODES {
            return Err(Problem::file(Some(line), format!("more than {MAX_NODES} values")));
        }
        if self.open.len().saturating_add(depth) > MAX_DEPTH {
            return Err(Problem::file(
                Some(line),
                format!("nested deeper than {MAX_DEPTH} levels"),
            ));
        }
        Ok(())
    }

    fn start(&mut self, node: Node, anchor: usize) -> Result<(), Problem> {
        self.check(node.line, 1, 1)?;
        if let Some(open) = self.open.last()
            && matches!(open.node.kind, Kind::Map(_))
            && open.key.is_none()
        {
            return Err(Problem::file(
                Some(node.line),
                "a list or mapping cannot be a key".to_owned(),
            ));
        }
        self.nodes += 1;
        self.open.push(Open {
            node,
            anchor,
            key: None,
            nodes: 1,
            depth: 1,
        });
        Ok(())
    }

    fn finished(&mut self, node: Node, anchor: usize, nodes: usize, depth: usize) -> Result<(), Problem> {
        if anchor != 0 {
            self.anchors.insert(
                anchor,
                Anchored {
                    node: node.clone(),
                    nodes,
                    depth,
                },
            );
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        open.nodes += nodes;
        open.depth = open.depth.max(depth + 1);
        match &mut open.node.kind {
            Kind::List(items) => items.push(node),
            Kind::Map(entries) => match open.key.take() {
                Some((key, line)) if key == "<<" => merge_key(entries, node, line)?,
                Some((key, line)) => entries.push(Entry { key, line, value: node }),
                None => {
                    let line = node.line;
                    let Some(key) = key_text(&node) else {
                        return Err(Problem::file(
                            Some(line),
                            "a list or mapping cannot be a key".to_owned(),
                        ));
                    };
                    open.key = Some((key, line));
                }
            },
            _ => {}
        }
        Ok(())
    }
}

fn key_text(node: &Node) -> Option<String> {
    if node.is_null() {
        Some("null".to_owned())
    } else {
        node.coerced()
    }
}

/// `<<: *defaults`: the keys that are not written out here come from the mapping or mappings named.
fn merge_key(entries: &mut Vec<Entry>, node: Node, line: usize) -> Result<(), Problem> {
    let sources = match node.kind {
        Kind::List(items) => items,
        _ => vec![node],
    };
    for source in sources {
        let Kind::Map(from) = source.kind else {
            return Err(Problem::file(
                Some(line),
                "the value of << must be a mapping".to_owned(),
            ));
        };
        for entry in from {
            if !entries.iter().any(|e| e.key == entry.key) {
                // In front, so that a key written out later in the file still wins as the last one.
                entries.insert(0, entry);
            }
        }
    }
    Ok(())
}

fn scalar_kind(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Kind {
    let is_string = tag.is_some_and(|t| t.is_yaml_core_schema_tag("str"));
    if style == ScalarStyle::Plain && !is_string {
        scalar::resolve(text)
    } else {
        Kind::Str(text.to_owned())
    }
}
