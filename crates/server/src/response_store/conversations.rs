//! Conversations, and the items of conversations and responses.

use rusqlite::{OptionalExtension as _, params};

use super::database::{add_items, exists, now};
use super::types::{ItemError, ItemPage, NotFound, Owner, PageRequest, StoredItem};
use super::{ResponseStore, StoreError};

impl ResponseStore {
    /// A page of the items of a conversation, or of the input items of a response; inside, the id of the
    /// object or of the `after` item that is not stored. A page ends before it has more than `max_bytes`, but
    /// has at least one item.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn page(
        &self,
        owner: &Owner,
        id: &str,
        page: PageRequest,
        max_bytes: usize,
    ) -> Result<Result<ItemPage, NotFound>, StoreError> {
        let (owner, id) = (owner.clone(), id.to_owned());
        self.run(move |db| {
            let object: Option<String> = db
                .query_row(
                    "SELECT ifnull(body ->> '$.object', '') FROM holder WHERE id = ? AND owner = ?",
                    params![id, owner.0],
                    |row| row.get(0),
                )
                .optional()?;
            let Some(object) = object else { return Ok(Err(NotFound(id))) };
            let of_output = (object == "response").then_some(false);
            let from = match page.after {
                None if page.descending => i64::MAX,
                None => i64::MIN,
                Some(after) => {
                    let sql = "SELECT number FROM item WHERE holder = ?1 AND id = ?2
                               AND output = ifnull(?3, output)";
                    let at = db.query_row(sql, params![id, after, of_output], |row| row.get(0));
                    let Some(at) = at.optional()? else { return Ok(Err(NotFound(after))) };
                    at
                }
            };
            let (side, order) = if page.descending { ("<", "DESC") } else { (">", "ASC") };
            let sql = format!(
                "SELECT ifnull(id, ''), body FROM item WHERE holder = ?1 AND number {side} ?2
                 AND output = ifnull(?3, output) ORDER BY number {order}"
            );
            let mut select = db.prepare_cached(&sql)?;
            let mut rows = select.query(params![id, from, of_output])?;
            let (mut items, mut bytes_left) = (Vec::<(String, String)>::new(), max_bytes);
            while let Some(row) = rows.next()? {
                let item: (String, String) = (row.get(0)?, row.get(1)?);
                let fits = item.1.len() <= bytes_left;
                if items.len() == page.limit || !fits && !items.is_empty() {
                    return Ok(Ok(ItemPage { items, more: true }));
                }
                bytes_left = bytes_left.saturating_sub(item.1.len());
                items.push(item);
            }
            Ok(Ok(ItemPage { items, more: false }))
        })
        .await
    }

    /// The owner's items with these ids as JSON, in their order; inside, the index of the first that is not
    /// stored, or with which they have more than `max_bytes`.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn items(
        &self,
        owner: &Owner,
        ids: Vec<String>,
        max_bytes: usize,
    ) -> Result<Result<Vec<String>, ItemError>, StoreError> {
        let owner = owner.0.clone();
        self.run(move |db| {
            let sql = "SELECT item.body FROM item JOIN holder ON holder.id = item.holder
                       WHERE item.id = ? AND holder.owner = ? LIMIT 1";
            let mut select = db.prepare_cached(sql)?;
            let (mut items, mut bytes_left) = (Vec::with_capacity(ids.len()), max_bytes);
            for (at, id) in ids.iter().enumerate() {
                let item = select.query_row(params![id, owner], |row| row.get::<_, String>(0));
                let Some(item) = item.optional()? else { return Ok(Err(ItemError::NotFound(at))) };
                match bytes_left.checked_sub(item.len()) {
                    Some(left) => bytes_left = left,
                    None => return Ok(Err(ItemError::TooLong(at))),
                }
                items.push(item);
            }
            Ok(Ok(items))
        })
        .await
    }

    /// An item of one of the owner's conversations or responses, as JSON.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn item_of(
        &self,
        owner: &Owner,
        holder: &str,
        id: &str,
    ) -> Result<Option<String>, StoreError> {
        let (owner, holder, id) = (owner.0.clone(), holder.to_owned(), id.to_owned());
        self.run(move |db| {
            db.query_row(
                "SELECT item.body FROM item JOIN holder ON holder.id = item.holder
                 WHERE item.id = ? AND holder.id = ? AND holder.owner = ? LIMIT 1",
                params![id, holder, owner],
                |row| row.get(0),
            )
            .optional()
        })
        .await
    }

    /// Creates a conversation, or replaces its body: the object as JSON.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn put_conversation(
        &self,
        owner: &Owner,
        id: &str,
        body: String,
    ) -> Result<(), StoreError> {
        let (owner, id) = (owner.0.clone(), id.to_owned());
        self.run(move |db| {
            let sql = "INSERT INTO holder(id, owner, used, body) VALUES (?1, ?2, ?3, ?4)
                       ON CONFLICT(id) DO UPDATE SET used = ?3, body = ?4 WHERE owner = ?2";
            db.execute(sql, params![id, owner, now(), body]).map(drop)
        })
        .await
    }

    /// Appends items to a conversation. Returns whether there is one.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn append(
        &self,
        owner: &Owner,
        id: &str,
        items: Vec<StoredItem>,
    ) -> Result<bool, StoreError> {
        let (owner, id) = (owner.clone(), id.to_owned());
        self.run(move |db| {
            if !exists(db, &owner, &id)? {
                return Ok(false);
            }
            add_items(db, &id, &items, false)?;
            Ok(true)
        })
        .await
    }

    /// Deletes an item of a conversation. Returns whether there was one.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn delete_item(
        &self,
        owner: &Owner,
        id: &str,
        item: &str,
    ) -> Result<bool, StoreError> {
        let (owner, id, item) = (owner.clone(), id.to_owned(), item.to_owned());
        self.run(move |db| {
            if !exists(db, &owner, &id)? {
                return Ok(false);
            }
            let sql = "DELETE FROM item WHERE holder = ? AND id = ?";
            Ok(db.execute(sql, params![id, item])? > 0)
        })
        .await
    }
}
