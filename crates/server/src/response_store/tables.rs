//! The database's tables.

use rusqlite::{Connection, Transaction};

/// Version of the tables; a file of another version is refused.
const VERSION: i64 = 1;

/// Numbers of items are never used twice, so they give the order. `size` counts the bytes of
/// JSON.
const TABLES: &str = "
    CREATE TABLE holder(
        id TEXT PRIMARY KEY NOT NULL,
        owner TEXT NOT NULL,
        used INTEGER NOT NULL,
        previous TEXT,
        conversation TEXT,
        body TEXT NOT NULL
    ) STRICT;
    CREATE INDEX holder_used ON holder(used);
    CREATE TABLE item(
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT,
        holder TEXT NOT NULL REFERENCES holder(id) ON DELETE CASCADE,
        output INTEGER NOT NULL,
        body TEXT NOT NULL
    ) STRICT;
    CREATE INDEX item_id ON item(id);
    CREATE INDEX item_holder ON item(holder);
    CREATE TABLE event(
        holder TEXT NOT NULL REFERENCES holder(id) ON DELETE CASCADE,
        number INTEGER NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (holder, number)
    ) STRICT;
    CREATE TABLE size(bytes INTEGER NOT NULL) STRICT;
    INSERT INTO size VALUES (0);
";

/// Responses that a process did not finish will not go on.
const ENDED: &str = r#"
    UPDATE holder SET body = json_set(body, '$.status', 'failed', '$.error', json(
        '{"code": "server_error", "message": "The server stopped before the response was complete."}'))
    WHERE body ->> '$.status' IN ('queued', 'in_progress')
"#;

/// Creates the tables if there are none, and sets how the file is written: no other process may
/// use it, and what was committed outlives this process, but perhaps not the machine's power.
pub(super) fn prepare(connection: &mut Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(std::time::Duration::ZERO)?;
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    let transaction = connection.transaction()?;
    let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    match version {
        VERSION => {}
        0 => create(&transaction)?,
        _ => {
            return Err(rusqlite::Error::InvalidParameterName(format!(
                "the file is of version {version}, which this program does not know"
            )));
        }
    }
    transaction.execute(ENDED, [])?;
    transaction.commit()
}

fn create(db: &Transaction<'_>) -> rusqlite::Result<()> {
    db.execute_batch(TABLES)?;
    for table in ["holder", "item", "event"] {
        for (verb, bytes) in
            [("INSERT", "+ octet_length(new.body)"), ("DELETE", "- octet_length(old.body)")]
        {
            db.execute_batch(&format!(
                "CREATE TRIGGER {table}_{verb} AFTER {verb} ON {table}
                 BEGIN UPDATE size SET bytes = bytes {bytes}; END;"
            ))?;
        }
    }
    db.execute_batch(
        "CREATE TRIGGER holder_UPDATE AFTER UPDATE OF body ON holder BEGIN
         UPDATE size SET bytes = bytes + octet_length(new.body) - octet_length(old.body); END;",
    )?;
    db.pragma_update(None, "user_version", VERSION)
}
