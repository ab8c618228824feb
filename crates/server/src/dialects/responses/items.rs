//! Items as they are kept and listed: each with an id, its type and parts.

use serde_json::{Value, json};

use crate::error::{ApiError, shown};

/// A new id behind `prefix`.
pub fn id(prefix: &str) -> String {
    format!("{prefix}_{}", uuid::Uuid::new_v4().simple())
}

/// A request's input as items. Those of a reference are only what refers to them.
///
/// # Errors
/// 400 where it is neither a text nor a list of items.
pub fn of_input(input: Option<&Value>) -> Result<Vec<Value>, ApiError> {
    match input {
        None | Some(Value::Null) => Err(ApiError::missing("input")),
        Some(Value::String(text)) => Ok(vec![whole(json!({"role": "user", "content": text}))]),
        Some(Value::Array(items)) => of_list("input", items),
        Some(_) => {
            let message = "'input' must be a string or an array of items.";
            Err(ApiError::invalid("input", "invalid_type", message))
        }
    }
}

/// A list of items, `param` in errors.
///
/// # Errors
/// 400 for what is no item.
pub fn of_list(param: &str, items: &[Value]) -> Result<Vec<Value>, ApiError> {
    let each = items.iter().enumerate().map(|(index, item)| {
        if item.is_object() {
            return Ok(whole(item.clone()));
        }
        let param = format!("{param}[{index}]");
        let message = format!("'{param}' must be an object.");
        Err(ApiError::invalid(param, "invalid_type", message))
    });
    each.collect()
}

/// The id that an item refers to, if it is a reference.
pub fn reference(item: &Value) -> Option<&str> {
    let is_reference = match item["type"].as_str() {
        Some(kind) => kind == "item_reference",
        None => item.get("role").is_none(),
    };
    item["id"].as_str().filter(|_| is_reference)
}

/// Adds what a client may leave out.
fn whole(mut item: Value) -> Value {
    if reference(&item).is_some() {
        return item;
    }
    if item["type"].is_null() {
        item["type"] = json!("message");
    }
    let prefix = match item["type"].as_str() {
        Some("message") => "msg",
        Some("function_call") => "fc",
        Some("function_call_output") => "fco",
        Some("custom_tool_call") => "ctc",
        Some("custom_tool_call_output") => "ctco",
        Some("reasoning") => "rs",
        _ => "item",
    };
    if !item["id"].is_string() {
        item["id"] = json!(id(prefix));
    }
    if item["status"].is_null() {
        item["status"] = json!("completed");
    }
    if let ("msg", Some(text)) = (prefix, item["content"].as_str()) {
        let part = match item["role"].as_str() {
            Some("assistant") => {
                json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
            }
            _ => json!({"type": "input_text", "text": text}),
        };
        item["content"] = json!([part]);
    }
    item
}

/// The error where no such item is kept.
pub fn no_such_item(param: String, id: &str) -> ApiError {
    let message = format!("Item with id '{}' not found.", shown(id));
    ApiError::invalid(param, "item_not_found", message)
}
