//! Responses and conversations that are stored between requests, in one SQLite database.
//!
//! A *holder* is a response or a conversation and has *items*, oldest first. The items of a response are
//! its own input and output alone: what came before is found through `previous` or its conversation. Each
//! holder belongs to the [`Owner`] whose request made it. See `docs/decisions`.

mod conversations;
mod database;
mod error;
mod tables;
mod types;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use self::database::{Database, HistoryReader, Sql, add_items, exists, links, now, remove};
pub(crate) use self::error::{OpenError, StoreError};
pub(crate) use self::types::{
    History, ItemError, ItemPage, NotFound, Owner, PageRequest, ResponseEntry, ResponseSnapshot,
    StoredItem, StoredObject,
};
use crate::config::StoreSettings;
use crate::pool::{Lane, Priority};

/// Calls that may wait for the store's thread or run on it.
const MAX_WAITING: usize = 256;
/// Responses that one request may follow through `previous`.
const MAX_CHAIN: usize = 4096;

/// The store. Cheap to clone. Each call works on the store's own thread, one at a time, and what is read
/// stays JSON text: a tree would take many times its memory.
#[derive(Debug, Clone)]
pub struct ResponseStore {
    /// Guards the connection, for one transaction.
    database: Arc<Mutex<Database>>,
    thread: Arc<Lane>,
}

impl ResponseStore {
    /// Opens the database, or creates one: in memory if no path is given.
    ///
    /// # Errors
    /// [`OpenError`]
    pub fn open(settings: &StoreSettings) -> Result<Self, OpenError> {
        let path = Some(&settings.path).filter(|path| !path.as_os_str().is_empty());
        let max_bytes = i64::from(settings.max_mib) << 20;
        let max_age = Duration::from_secs(u64::from(settings.max_age_hours) * 3600);
        Self::at(path.map(std::path::PathBuf::as_path), max_bytes, max_age)
    }

    fn at(path: Option<&Path>, max_bytes: i64, max_age: Duration) -> Result<Self, OpenError> {
        let mut connection = match path {
            Some(path) => Connection::open(path)?,
            None => Connection::open_in_memory()?,
        };
        tables::prepare(&mut connection)?;
        let database = Arc::new(Mutex::new(Database { connection, max_bytes, max_age }));
        let thread =
            Lane::new("store", 1, MAX_WAITING, Priority::Normal).map_err(OpenError::Thread)?;
        Ok(Self { database, thread: Arc::new(thread) })
    }

    /// Runs `f` in one transaction, on the store's thread.
    async fn run<T: Send + 'static>(
        &self,
        f: impl FnOnce(&Transaction<'_>) -> Sql<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let database = Arc::clone(&self.database);
        let job = move || {
            // A panic in between rolled its transaction back.
            let mut database = database.lock().unwrap_or_else(PoisonError::into_inner);
            database.transact(f).map_err(StoreError::from)
        };
        self.thread.run(job).await
    }

    /// Stores a response, or replaces what is stored of it. Its input and output join its conversation when
    /// it is complete.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn save(
        &self,
        entry: ResponseEntry,
        response: ResponseSnapshot,
    ) -> Result<(), StoreError> {
        self.run(move |db| {
            let ResponseSnapshot { id, complete, body, output } = &response;
            if entry.retrievable {
                remove(db, &entry.owner, id)?;
                let (previous, conversation) =
                    (entry.previous.as_ref(), entry.conversation.as_ref());
                db.execute(
                    "INSERT INTO holder(id, owner, used, previous, conversation, body)
                     VALUES (?, ?, ?, ?, ?, ?)",
                    params![id, entry.owner.0, now(), previous, conversation, body],
                )?;
                add_items(db, id, &entry.input, false)?;
                add_items(db, id, output, true)?;
                for (number, event) in (0_i64..).zip(&entry.events) {
                    let sql = "INSERT INTO event(holder, number, body) VALUES (?, ?, ?)";
                    db.prepare_cached(sql)?.execute(params![id, number, event])?;
                }
            }
            if let Some(conversation) = entry.conversation.as_deref().filter(|_| *complete) {
                // The conversation may have been deleted meanwhile.
                if exists(db, &entry.owner, conversation)? {
                    add_items(db, conversation, &entry.input, false)?;
                    add_items(db, conversation, output, true)?;
                }
            }
            Ok(())
        })
        .await
    }

    /// The owner's response or conversation with this id.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn object(
        &self,
        owner: &Owner,
        id: &str,
    ) -> Result<Option<StoredObject>, StoreError> {
        let (owner, id) = (owner.clone(), id.to_owned());
        self.run(move |db| {
            let sql = "SELECT ifnull(body ->> '$.object', ''), ifnull(body ->> '$.background', 0),
                           iif(body ->> '$.object' = 'response',
                               json_set(body, '$.output', json((
                                   SELECT json_group_array(json(body)) FROM (
                                       SELECT body FROM item WHERE item.holder = holder.id
                                       AND output ORDER BY number)))),
                               body)
                       FROM holder WHERE id = ? AND owner = ?";
            let holder = |row: &rusqlite::Row<'_>| {
                Ok(StoredObject { object: row.get(0)?, background: row.get(1)?, json: row.get(2)? })
            };
            db.prepare_cached(sql)?.query_row(params![id, owner.0], holder).optional()
        })
        .await
    }

    /// The type of a response or a conversation, without reading it: its `object`, and whether it was
    /// generated in the background.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn object_type(
        &self,
        owner: &Owner,
        id: &str,
    ) -> Result<Option<(String, bool)>, StoreError> {
        let (owner, id) = (owner.clone(), id.to_owned());
        self.run(move |db| {
            let sql = "SELECT ifnull(body ->> '$.object', ''), ifnull(body ->> '$.background', 0)
                       FROM holder WHERE id = ? AND owner = ?";
            let object_type = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
            db.prepare_cached(sql)?.query_row(params![id, owner.0], object_type).optional()
        })
        .await
    }

    /// The items of a response or a conversation and of all that came before, oldest first: the last ones
    /// that together have at most `max_bytes` of JSON.
    ///
    /// # Errors
    /// [`StoreError`]; inside, the id of what is not stored.
    pub async fn history(
        &self,
        owner: &Owner,
        id: &str,
        max_bytes: usize,
    ) -> Result<Result<History, NotFound>, StoreError> {
        let (owner, id) = (owner.clone(), id.to_owned());
        self.run(move |db| {
            let mut reader = HistoryReader::new(max_bytes);
            let mut next = Some(id);
            for _ in 0..MAX_CHAIN {
                let Some(id) = next.take().filter(|_| reader.is_whole()) else { break };
                db.execute("UPDATE holder SET used = ? WHERE id = ?", params![now(), id])?;
                let Some((previous, conversation)) = links(db, &owner, &id)? else {
                    return Ok(Err(NotFound(id)));
                };
                reader.read(db, &id, None)?;
                if let Some(conversation) = conversation {
                    reader.read(db, &conversation, Some(&id))?;
                }
                next = previous;
            }
            let History { items, whole } = reader.finish();
            Ok(Ok(History { items, whole: whole && next.is_none() }))
        })
        .await
    }

    /// A response's events from this number on, at most `limit`, as JSON; none where they were not
    /// entry.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn events(
        &self,
        owner: &Owner,
        id: &str,
        from: u64,
        limit: u32,
    ) -> Result<Vec<String>, StoreError> {
        let (owner, id) = (owner.0.clone(), id.to_owned());
        let from = i64::try_from(from).unwrap_or(i64::MAX);
        self.run(move |db| {
            let sql = "SELECT event.body FROM event JOIN holder ON holder.id = event.holder
                       WHERE holder.id = ? AND owner = ? AND number >= ? ORDER BY number LIMIT ?";
            let params = params![id, owner, from, limit];
            db.prepare(sql)?.query_map(params, |row| row.get(0))?.collect()
        })
        .await
    }

    /// Deletes a response or a conversation. Returns whether there was one.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn delete(&self, owner: &Owner, id: &str) -> Result<bool, StoreError> {
        let (owner, id) = (owner.clone(), id.to_owned());
        self.run(move |db| remove(db, &owner, &id)).await
    }
}

#[cfg(test)]
mod tests;
