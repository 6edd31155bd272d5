//! What the API server knows of the shape of objects: which lists are merged by key, and what is filled in.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// The shape of one value.
#[derive(Clone, Debug)]
pub enum Shape {
    /// Merged field by field: known fields, and the shape of all others.
    Map(BTreeMap<String, Shape>, Option<Box<Shape>>),
    /// A list whose items are told apart by these fields.
    Keyed(Vec<String>, Box<Shape>),
    /// A list of values each of which stands once.
    Set,
    /// Replaced as a whole.
    Leaf,
}

/// Shape and defaults of one kind.
#[derive(Clone, Debug)]
pub struct Schema {
    /// Its shape.
    pub shape: Shape,
    /// Its OpenAPI schema, where there is one.
    document: Option<Value>,
}

impl Schema {
    /// Of a custom resource.
    pub fn of_custom(document: &Value) -> Self {
        Self { shape: with_metadata(shape(document)), document: Some(document.clone()) }
    }

    /// Of a kind that we know little of: maps are merged, lists are replaced.
    pub fn of_builtin() -> Self {
        Self { shape: with_metadata(free()), document: None }
    }

    /// Fills in defaults and removes nulls, as the API server does before it stores an object.
    pub fn complete(&self, object: &mut Value) {
        if let Some(document) = &self.document {
            complete(document, object);
        }
    }
}

/// Whatever it is: maps by field, all else as a whole.
fn free() -> Shape {
    Shape::Map(BTreeMap::new(), None)
}

fn with_metadata(of_kind: Shape) -> Shape {
    let Shape::Map(mut fields, rest) = of_kind else { return of_kind };
    let metadata = BTreeMap::from([
        ("finalizers".to_owned(), Shape::Set),
        ("ownerReferences".to_owned(), Shape::Keyed(vec!["uid".to_owned()], Box::new(free()))),
    ]);
    fields.insert("metadata".to_owned(), Shape::Map(metadata, None));
    Shape::Map(fields, rest)
}

fn shape(document: &Value) -> Shape {
    let text = |name: &str| document.get(name).and_then(Value::as_str);
    match text("type") {
        Some("object") if text("x-kubernetes-map-type") == Some("atomic") => Shape::Leaf,
        Some("object") => {
            let known = document.get("properties").and_then(Value::as_object);
            let fields = known.into_iter().flatten().map(|(name, field)| (name.clone(), shape(field))).collect();
            let rest = document.get("additionalProperties").filter(|rest| rest.is_object());
            Shape::Map(fields, rest.map(|rest| Box::new(shape(rest))))
        }
        Some("array") if text("x-kubernetes-list-type") == Some("map") => {
            let keys = document["x-kubernetes-list-map-keys"].as_array().into_iter().flatten();
            let keys = keys.filter_map(Value::as_str).map(str::to_owned).collect();
            Shape::Keyed(keys, Box::new(shape(&document["items"])))
        }
        Some("array") if text("x-kubernetes-list-type") == Some("set") => Shape::Set,
        _ => Shape::Leaf,
    }
}

fn complete(document: &Value, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if let Some(known) = document.get("properties").and_then(Value::as_object) {
                complete_fields(known, fields);
            }
            if let Some(rest) = document.get("additionalProperties").filter(|rest| rest.is_object()) {
                fields.values_mut().for_each(|field| complete(rest, field));
            }
        }
        Value::Array(items) => {
            if let Some(of_items) = document.get("items") {
                items.iter_mut().for_each(|item| complete(of_items, item));
            }
        }
        _ => {}
    }
}

fn complete_fields(known: &Map<String, Value>, fields: &mut Map<String, Value>) {
    for (name, document) in known {
        let nullable = document.get("nullable") == Some(&json!(true));
        if !nullable && fields.get(name).is_some_and(Value::is_null) {
            fields.remove(name);
        }
        if let Some(default) = document.get("default").filter(|_| !fields.contains_key(name)) {
            fields.insert(name.clone(), default.clone());
        }
        if let Some(field) = fields.get_mut(name) {
            complete(document, field);
        }
    }
}
