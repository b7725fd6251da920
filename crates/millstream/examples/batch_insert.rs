//! Orders into PostgreSQL: one `INSERT` for a hundred of them, and an outcome for each.
//!
//! ```text
//! cargo run --release --example batch_insert -- postgres://user@localhost/database
//! ```
//!
//! After a crash, a batch may come again (at least once); `ON CONFLICT` makes that the same as once. A database that does not
//! answer is asked again until it does; what it refuses becomes a dead letter, and only that.

use std::{collections::HashSet, sync::Arc, time::Duration};

use millstream::{Error, ErrorKind, prelude::*};
use tokio::sync::Mutex;
use tokio_postgres::{Client, NoTls};

const TABLES: &str = "
    DROP TABLE IF EXISTS orders, customers;
    CREATE TABLE customers (name text PRIMARY KEY);
    CREATE TABLE orders (id bigint PRIMARY KEY, customer text REFERENCES customers, cents bigint);
    INSERT INTO customers VALUES ('ada'), ('bob'), ('eve');";

/// Rows for all orders whose customer exists; answers with their ids.
const INSERT: &str = "
    INSERT INTO orders
    SELECT new.* FROM unnest($1::bigint[], $2::text[], $3::bigint[]) AS new (id, customer, cents)
    JOIN customers ON name = new.customer
    ON CONFLICT (id) DO UPDATE SET customer = excluded.customer, cents = excluded.cents
    RETURNING id";

const TOTALS: &str = "SELECT customer, count(*), sum(cents)::bigint FROM orders GROUP BY customer ORDER BY customer";

#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct Order {
    id: i64,
    customer: String,
    cents: i64,
}

struct Database {
    url: String,
    client: Mutex<Option<Arc<Client>>>,
}

impl Database {
    /// The connection; a new one, if it is gone.
    async fn client(&self) -> Result<Arc<Client>> {
        let mut client = self.client.lock().await;
        if let Some(client) = client.as_ref().filter(|client| !client.is_closed()) {
            return Ok(client.clone());
        }
        let (new, connection) = tokio_postgres::connect(&self.url, NoTls).await.map_err(failed)?;
        tokio::spawn(connection);
        Ok(client.insert(Arc::new(new)).clone())
    }

    async fn insert(&self, orders: &[Order]) -> Result<Outcomes<i64>> {
        let ids: Vec<i64> = orders.iter().map(|order| order.id).collect();
        let customers: Vec<&str> = orders.iter().map(|order| order.customer.as_str()).collect();
        let cents: Vec<i64> = orders.iter().map(|order| order.cents).collect();
        let rows = self.client().await?.query(INSERT, &[&ids, &customers, &cents]).await.map_err(failed)?;
        let inserted: HashSet<i64> = rows.iter().map(|row| row.get(0)).collect();
        let outcome = |order: &Order| {
            let unknown = || Error::new(ErrorKind::Rejected, format!("there is no customer `{}`", order.customer));
            inserted.get(&order.id).copied().ok_or_else(unknown)
        };
        Ok(orders.iter().map(outcome).collect())
    }
}

/// Values that do not fit (SQLSTATE 22 and 23) are the records' fault; all else can be better at another time.
fn failed(error: tokio_postgres::Error) -> Error {
    let refused = error.code().is_some_and(|code| code.code().starts_with("22") || code.code().starts_with("23"));
    let kind = if refused { ErrorKind::Rejected } else { ErrorKind::Unavailable };
    Error::new(kind, "the database has not taken the batch").caused_by(error)
}

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "postgres://postgres@localhost/postgres".to_owned());
    let database = Arc::new(Database { url, client: Mutex::new(None) });
    database.client().await?.batch_execute(TABLES).await.map_err(failed)?;

    let names = ["ada", "bob", "ada", "eve", "mallory"];
    let orders =
        (0..1003).zip(names.iter().cycle()).map(|(id, name)| Order { id, customer: (*name).to_owned(), cents: id });
    let pipeline = Pipeline::new("batch-insert").in_memory();
    let shared = database.clone();
    pipeline
        .values(orders)
        .batch(Batching::count(100).linger(Duration::from_secs(1)))
        .handle(move |orders| {
            let database = shared.clone();
            async move { database.insert(&orders).await }
        })
        .in_flight(2)
        .timeout(Duration::from_secs(10))
        .name("insert")
        .drop();
    let summary = pipeline.run().await?;

    println!("{} inserted, {} refused", summary.stages["insert"].records_out, summary.dead());
    for row in database.client().await?.query(TOTALS, &[]).await.map_err(failed)? {
        let (customer, orders, cents): (&str, i64, i64) = (row.get(0), row.get(1), row.get(2));
        println!("{customer}: {orders} orders, {cents} cents");
    }
    Ok(())
}
