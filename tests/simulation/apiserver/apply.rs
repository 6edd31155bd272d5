//! Server-side apply: who owns which field, and how what is applied joins what is there.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::schema::Shape;

/// The way to a field: names, and the keys of list items.
pub type Path = Vec<String>;

/// The fields that a manager owns.
pub type Fields = BTreeSet<Path>;

/// Name of a manager, how it writes, and the subresource: the API server tells these apart.
pub type Manager = (String, &'static str, String);

/// Which fields each manager owns.
pub type Owners = BTreeMap<Manager, Fields>;

/// What an apply did.
pub enum Applied {
    /// The object now.
    Merged(Value),
    /// Somebody else owns these fields with other values.
    Conflicts(Vec<Path>),
}

/// Joins what a manager applies with what is there.
pub fn apply(
    shape: &Shape,
    owners: &mut Owners,
    manager: &Manager,
    current: &Value,
    wanted: &Value,
    force: bool,
) -> Applied {
    let (old, new) = (leaves(shape, current), leaves(shape, wanted));
    let fields: Fields = new.keys().cloned().collect();
    let contested = |path: &&Path| old.get(*path) != new.get(*path);
    let conflicts: Fields = owners
        .iter()
        .filter(|(other, _)| *other != manager)
        .flat_map(|(_, theirs)| theirs.intersection(&fields).filter(contested).cloned())
        .collect();
    if !conflicts.is_empty() && !force {
        return Applied::Conflicts(conflicts.into_iter().collect());
    }
    for (_, theirs) in owners.iter_mut().filter(|(other, _)| *other != manager) {
        theirs.retain(|path| !conflicts.contains(path));
    }
    let before = owners.insert(manager.clone(), fields.clone()).unwrap_or_default();
    let mut merged = current.clone();
    merge(shape, &mut merged, wanted);
    let others: Fields =
        owners.iter().filter(|(other, _)| *other != manager).flat_map(|(_, theirs)| theirs.clone()).collect();
    for path in before.difference(&fields).filter(|path| !others.contains(*path)) {
        remove(shape, &mut merged, path);
    }
    owners.retain(|_, fields| !fields.is_empty());
    Applied::Merged(merged)
}

/// Notes what a manager changed by writing an object as a whole.
pub fn take_over(shape: &Shape, owners: &mut Owners, manager: &Manager, before: &Value, after: &Value) {
    let (old, new) = (leaves(shape, before), leaves(shape, after));
    let changed: Fields =
        new.iter().filter(|(path, value)| old.get(*path) != Some(*value)).map(|(path, _)| path.clone()).collect();
    for theirs in owners.values_mut() {
        theirs.retain(|path| !changed.contains(path) && new.contains_key(path));
    }
    if !changed.is_empty() {
        owners.entry(manager.clone()).or_default().extend(changed);
    }
    owners.retain(|_, fields| !fields.is_empty());
}

/// Every field that stands for itself, and its value.
fn leaves(shape: &Shape, value: &Value) -> BTreeMap<Path, Value> {
    let mut found = BTreeMap::new();
    walk(shape, value, &mut Vec::new(), &mut found);
    found
}

fn walk(shape: &Shape, value: &Value, path: &mut Path, found: &mut BTreeMap<Path, Value>) {
    match (shape, value) {
        (Shape::Map(known, rest), Value::Object(fields)) if !fields.is_empty() => {
            for (name, field) in fields {
                if !is_managed(path, name) {
                    continue;
                }
                path.push(name.clone());
                walk(of_field(known, rest.as_deref(), name, field), field, path, found);
                path.pop();
            }
        }
        (Shape::Keyed(keys, of_items), Value::Array(items)) if !items.is_empty() => {
            for item in items {
                path.push(key_of(keys, item));
                walk(of_items, item, path, found);
                path.pop();
            }
        }
        (Shape::Set, Value::Array(items)) => {
            for item in items {
                path.push(item.to_string());
                found.insert(path.clone(), item.clone());
                path.pop();
            }
        }
        _ => drop(found.insert(path.clone(), value.clone())),
    }
}

/// What the API server keeps for itself belongs to no manager.
fn is_managed(path: &Path, name: &str) -> bool {
    const KEPT: [&str; 9] = [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "managedFields",
    ];
    match path.as_slice() {
        [] => !matches!(name, "apiVersion" | "kind"),
        [metadata] if metadata == "metadata" => !KEPT.contains(&name),
        _ => true,
    }
}

const FREE: &Shape = &Shape::Map(BTreeMap::new(), None);

fn of_field<'a>(known: &'a BTreeMap<String, Shape>, rest: Option<&'a Shape>, name: &str, value: &Value) -> &'a Shape {
    match (known.get(name), rest) {
        (Some(shape), _) => shape,
        (None, Some(shape)) => shape,
        (None, None) if value.is_object() => FREE,
        (None, None) => &Shape::Leaf,
    }
}

fn key_of(keys: &[String], item: &Value) -> String {
    let parts: Map<String, Value> =
        keys.iter().map(|key| (key.clone(), item.get(key).cloned().unwrap_or(Value::Null))).collect();
    Value::Object(parts).to_string()
}

fn merge(shape: &Shape, current: &mut Value, wanted: &Value) {
    match (shape, &mut *current, wanted) {
        (Shape::Map(known, rest), Value::Object(fields), Value::Object(news)) => {
            for (name, new) in news {
                let shape = of_field(known, rest.as_deref(), name, new);
                match fields.get_mut(name) {
                    Some(field) => merge(shape, field, new),
                    None => drop(fields.insert(name.clone(), new.clone())),
                }
            }
        }
        (Shape::Keyed(keys, of_items), Value::Array(items), Value::Array(news)) => {
            for new in news {
                let key = key_of(keys, new);
                match items.iter_mut().find(|item| key_of(keys, item) == key) {
                    Some(item) => merge(of_items, item, new),
                    None => items.push(new.clone()),
                }
            }
        }
        (Shape::Set, Value::Array(items), Value::Array(news)) => {
            for new in news {
                if !items.contains(new) {
                    items.push(new.clone());
                }
            }
        }
        (_, current, wanted) => *current = wanted.clone(),
    }
}

/// Removes a field, and what became empty with it.
fn remove(shape: &Shape, value: &mut Value, path: &[String]) {
    let Some((first, rest)) = path.split_first() else { return };
    match (shape, value) {
        (Shape::Map(known, others), Value::Object(fields)) => {
            let Some(field) = fields.get_mut(first) else { return };
            if !rest.is_empty() {
                let shape = of_field(known, others.as_deref(), first, field).clone();
                remove(&shape, field, rest);
            }
            if rest.is_empty() || is_empty(field) {
                fields.remove(first);
            }
        }
        (Shape::Keyed(keys, of_items), Value::Array(items)) => {
            let keys_of: Vec<_> = items.iter().map(|item| key_of(keys, item)).collect();
            let Some(index) = keys_of.iter().position(|key| key == first) else { return };
            // Its key goes last: without it the item could not be found again.
            if rest.first().is_some_and(|field| keys.contains(field)) {
                let alone = items[index].as_object().is_some_and(|item| item.keys().all(|name| keys.contains(name)));
                if alone {
                    items.remove(index);
                }
                return;
            }
            remove(of_items, &mut items[index], rest);
            let alone = items[index].as_object().is_some_and(|item| item.keys().all(|name| keys.contains(name)));
            if alone {
                items.remove(index);
            }
        }
        (Shape::Set, Value::Array(items)) => items.retain(|item| !item.to_string().eq(first)),
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}
