//! Tables of other modules in the same database, on the same thread: `device`, `device_attr`, `device_twin`, `sub_topics` (spec 05 §2).

use rusqlite::Connection;

use super::store::Store;
use super::{MetaManager, RequestError};

/// The handle for modules that keep rows of their own. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tables(Store);

impl Tables {
    /// Runs statements on the database's thread, as one transaction: all of them or none. With an error of `work` nothing is changed.
    pub async fn transact<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, RequestError> {
        let work = move |connection: &Connection| {
            let transaction = connection.unchecked_transaction()?;
            let value = work(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        self.0
            .write_with(work)
            .await
            .map_err(|error| RequestError::Store(error.to_string()))
    }

    /// How often a damaged database was replaced while running: with each time, all rows of before are gone.
    pub fn replaced(&self) -> u64 {
        self.0.state().borrow().replaced
    }

    /// Waits until a damaged database was replaced more often than `seen` times.
    pub async fn replaced_after(&self, seen: u64) {
        let mut state = self.0.state();
        if state.wait_for(|state| state.replaced > seen).await.is_err() {
            // The database's thread has ended: nothing is replaced any more.
            std::future::pending().await
        }
    }

    /// Reads as if SQLite had found damage, and so replaces the database.
    #[cfg(test)]
    pub(crate) async fn pretend_damage(&self) {
        self.0.pretend_damage().await;
    }

    /// Reads on the database's thread.
    pub async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, RequestError> {
        self.0
            .read(query)
            .await
            .map_err(|error| RequestError::Store(error.to_string()))
    }
}

impl MetaManager {
    /// The database, for a module that keeps tables of its own in it.
    pub fn tables(&self) -> Tables {
        Tables(self.shared.store.clone())
    }
}
