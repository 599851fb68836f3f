//! A few bodies of ConfigMaps and Secrets, within a byte budget.

use std::collections::{HashMap, VecDeque};

use proto::{Object, ObjectPath};

use super::known::Known;

pub(super) struct Bodies {
    budget: usize,
    bytes: usize,
    objects: HashMap<ObjectPath, Object>,
    /// Oldest first.
    order: VecDeque<ObjectPath>,
}

impl Bodies {
    pub(super) fn new(budget: usize) -> Self {
        Self {
            budget,
            bytes: 0,
            objects: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// The body, if it is of the same object and at least of that version.
    pub(super) fn get(&mut self, path: &ObjectPath, known: &Known) -> Option<Object> {
        let object = self.objects.get(path)?;
        if object.uid() == known.uid && object.version().is_some_and(|version| version >= known.version) {
            return Some(object.clone());
        }
        self.remove(path);
        None
    }

    pub(super) fn put(&mut self, path: &ObjectPath, object: &Object) {
        self.remove(path);
        let size = object.json().len();
        // One large object must not push out all the others.
        if size > self.budget / 4 {
            return;
        }
        self.bytes += size;
        self.objects.insert(path.clone(), object.clone());
        self.order.push_back(path.clone());
        while self.bytes > self.budget {
            let Some(oldest) = self.order.front().cloned() else {
                break;
            };
            self.remove(&oldest);
        }
    }

    fn remove(&mut self, path: &ObjectPath) {
        if let Some(object) = self.objects.remove(path) {
            self.bytes -= object.json().len();
            self.order.retain(|other| other != path);
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::Kind;
    use serde_json::json;

    use super::*;

    fn object(name: &str, version: u64, size: usize) -> (ObjectPath, Object) {
        let body = json!({"metadata": {"name": name, "uid": "u", "resourceVersion": version.to_string()}, "x": "y".repeat(size)});
        (
            ObjectPath::new("ns", Kind::ConfigMap, name),
            Object::from_value(&body).expect("object"),
        )
    }

    #[test]
    fn old_versions_are_not_answered_and_the_budget_holds() {
        let mut bodies = Bodies::new(4000);
        let (a, body) = object("a", 5, 500);
        bodies.put(&a, &body);
        assert!(bodies.get(&a, &Known::of(&body)).is_some());
        let newer = Known {
            version: 6,
            ..Known::of(&body)
        };
        assert!(bodies.get(&a, &newer).is_none());
        for name in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            let (path, body) = object(name, 1, 500);
            bodies.put(&path, &body);
            bodies.put(&path, &body);
        }
        assert!(bodies.bytes <= 4000 && bodies.objects.len() == bodies.order.len());
        assert!(!bodies.objects.contains_key(&a));
        let (big, body) = object("big", 1, 2000);
        bodies.put(&big, &body);
        assert!(!bodies.objects.contains_key(&big));
    }
}
