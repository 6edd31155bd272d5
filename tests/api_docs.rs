//! The tables of fields in docs/kinds are what the types say. `CASCINA_WRITE_DOCS=1 cargo test --test api_docs` writes them.

#[path = "support/cluster.rs"]
mod support;
#[path = "support/turn.rs"]
mod turn;

use std::fmt::Write as _;

use serde_json::Value;

use support::{file, read};

const BEGIN: &str = "<!-- fields: written by tests/api_docs.rs -->\n";
const END: &str = "<!-- end of fields -->\n";

fn type_of(schema: &Value) -> String {
    if let Some(values) = schema["enum"].as_array() {
        let values: Vec<_> = values.iter().filter_map(Value::as_str).map(|value| format!("`{value}`")).collect();
        return values.join(", ");
    }
    if schema["x-kubernetes-int-or-string"] == true {
        return "quantity".into();
    }
    match schema["type"].as_str() {
        Some("array") => format!("list of {}", type_of(&schema["items"])),
        Some("object") if schema["additionalProperties"].is_object() => {
            format!("map to {}", type_of(&schema["additionalProperties"]))
        }
        Some("string") if schema["format"] == "date-time" => "time".into(),
        Some(other) => other.into(),
        None => "any".into(),
    }
}

fn rows(path: &str, schema: &Value, table: &mut String) {
    let required: Vec<_> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let Some(properties) = schema["properties"].as_object() else { return };
    for (name, field) in properties {
        let path = format!("{path}.{name}");
        let mut about = field["description"].as_str().unwrap_or_default().replace('\n', " ").replace('|', "\\|");
        if required.contains(&name.as_str()) && !path.starts_with("status") {
            about.push_str(" **Required.**");
        }
        // The default of an object is that of its fields.
        if let Some(default) = field.get("default").filter(|default| !default.is_object()) {
            let _ = write!(about, " Default `{}`.", default.to_string().trim_matches('"'));
        }
        let _ = writeln!(table, "| `{path}` | {} | {about} |", type_of(field));
        // Kubernetes' own types are documented there.
        let foreign = ["conditions", "selector"].contains(&name.as_str());
        if !foreign {
            rows(&path, field, table);
            rows(&format!("{path}[]"), &field["items"], table);
        }
    }
}

fn fields(definition: &Value) -> String {
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
    let mut text = String::new();
    for part in ["spec", "status"].into_iter().filter(|part| schema[*part].is_object()) {
        let _ = write!(text, "\n### {part}\n\n| Field | Type | Meaning |\n|---|---|---|\n");
        rows(part, &schema[part], &mut text);
    }
    text.push('\n');
    text
}

#[test]
fn pages_of_kinds_list_every_field() {
    let writes = std::env::var_os("CASCINA_WRITE_DOCS").is_some();
    for definition in cascina::api::custom_resource_definitions() {
        let definition = serde_json::to_value(definition).unwrap();
        let kind = definition["spec"]["names"]["singular"].as_str().unwrap();
        let page = format!("docs/kinds/{kind}.md");
        let text = read(&page);
        let begin = text.find(BEGIN).unwrap_or_else(|| panic!("{page} has no place for fields")) + BEGIN.len();
        let end = text.find(END).unwrap_or_else(|| panic!("{page}: the place for fields has no end"));
        let wanted = fields(&definition);
        if writes {
            std::fs::write(file(&page), [&text[..begin], &wanted, &text[end..]].concat()).unwrap();
        } else {
            assert_eq!(&text[begin..end], wanted, "{page}: CASCINA_WRITE_DOCS=1 cargo test --test api_docs");
        }
    }
}

/// `[text](path)` in a page of ours leads somewhere.
#[test]
fn links_between_pages_lead_somewhere() {
    let mut pages = vec!["README.md".to_owned(), "CONTRIBUTING.md".to_owned()];
    for folder in ["docs", "docs/kinds"] {
        for entry in std::fs::read_dir(file(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(format!("{folder}/{}", path.file_name().unwrap().to_str().unwrap()));
            }
        }
    }
    let mut dead = Vec::new();
    for page in pages {
        let text = read(&page);
        let folder = file(&page).parent().unwrap().to_owned();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap();
            let foreign = target.is_empty() || target.contains("://");
            if !foreign && !folder.join(target).exists() {
                dead.push(format!("{page}: {link}"));
            }
        }
    }
    assert!(dead.is_empty(), "{dead:#?}");
}
