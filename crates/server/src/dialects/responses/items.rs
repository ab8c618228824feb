//! Items as they are stored and listed: each with an id, its type, its status and parts.

use forebay_protocol::TextOr;
use forebay_protocol::responses::{InputItem, InputPart};
use serde_json::{Map, Value};

use crate::convert::to_json;
use crate::error::{ApiError, shown};
use crate::response_store::StoredItem;

/// A new id: `prefix`, `_` and 32 hexadecimal digits.
pub fn new_id(prefix: &str) -> String {
    format!("{prefix}_{}", uuid::Uuid::new_v4().simple())
}

/// A request's input as complete items; references stay what they are.
///
/// # Errors
/// 400 if there is no input.
pub fn of_input(input: Option<&TextOr<InputItem>>) -> Result<Vec<InputItem>, ApiError> {
    match input {
        None => Err(ApiError::missing("input")),
        Some(TextOr::Text(text)) => {
            let content = Some(TextOr::Text(text.clone()));
            let role = Some("user".to_owned());
            Ok(vec![complete(InputItem { role, content, ..InputItem::default() })])
        }
        Some(TextOr::Parts(items)) => Ok(items.iter().cloned().map(complete).collect()),
    }
}

/// The id of the stored item that an item refers to, if it is a reference.
pub fn reference(item: &InputItem) -> Option<&str> {
    let is_reference = match &item.kind {
        Some(kind) => kind == "item_reference",
        None => item.role.is_none(),
    };
    item.id.as_deref().filter(|_| is_reference)
}

/// Adds what a client may leave out: type, id, status, and the part around a message's text.
pub fn complete(mut item: InputItem) -> InputItem {
    if reference(&item).is_some() {
        return item;
    }
    let kind = item.kind.get_or_insert_with(|| "message".to_owned());
    let prefix = match kind.as_str() {
        "message" => "msg",
        "function_call" => "fc",
        "function_call_output" => "fco",
        "custom_tool_call" => "ctc",
        "custom_tool_call_output" => "ctco",
        "reasoning" => "rs",
        _ => "item",
    };
    item.id.get_or_insert_with(|| new_id(prefix));
    item.status.get_or_insert_with(|| "completed".to_owned());
    if prefix == "msg" {
        let is_reply = item.role.as_deref() == Some("assistant");
        item.content = item.content.map(|content| match content {
            TextOr::Text(text) => TextOr::Parts(vec![text_part(text, is_reply)]),
            parts @ TextOr::Parts(_) => parts,
        });
    }
    item
}

/// A message's text as its only part.
fn text_part(text: String, is_reply: bool) -> InputPart {
    let mut part = InputPart { text: Some(text), ..InputPart::default() };
    if is_reply {
        part.kind = Some("output_text".to_owned());
        let lists = ["annotations", "logprobs"];
        part.extra =
            lists.map(|name| (name.to_owned(), Value::Array(Vec::new()))).into_iter().collect();
    } else {
        part.kind = Some("input_text".to_owned());
    }
    part
}

/// An item as it is stored.
pub fn stored(item: &InputItem) -> StoredItem {
    StoredItem { id: item.id.clone(), json: to_json(item) }
}

/// An item that was stored. Fields of wrong types, which version 0.1.0 stored, are left out.
///
/// # Errors
/// 500 if it is no JSON object.
pub fn of_stored(json: &str) -> Result<InputItem, ApiError> {
    let unreadable = |error| ApiError::internal(format!("a stored item: {error}"));
    if let Ok(item) = serde_json::from_str(json) {
        return Ok(item);
    }
    let fields: Map<String, Value> = serde_json::from_str(json).map_err(unreadable)?;
    let is_typed = |name: &str, value: &Value| {
        let alone = Map::from_iter([(name.to_owned(), value.clone())]);
        serde_json::from_value::<InputItem>(Value::Object(alone)).is_ok()
    };
    let typed = fields.into_iter().filter(|(name, value)| is_typed(name, value)).collect();
    serde_json::from_value(Value::Object(typed)).map_err(unreadable)
}

/// The error for a reference to an item that is not stored.
pub fn no_such_item(param: String, id: &str) -> ApiError {
    let message = format!("Item with id '{}' not found.", shown(id));
    ApiError::invalid(param, "item_not_found", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_items_of_older_versions_are_read_without_their_wrong_fields() {
        let item =
            of_stored(r#"{"role": "user", "content": "hi", "status": 5, "x": [1]}"#).unwrap();
        assert_eq!((item.role.as_deref(), item.status), (Some("user"), None));
        assert_eq!(item.content, Some(TextOr::Text("hi".to_owned())));
        assert!(item.extra.contains_key("x"));
        assert!(of_stored("5").is_err());
    }
}
