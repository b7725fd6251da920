//! Fan-out and fan-in: one stream to several readers, a part of it to each of several steps, and all of that together again.
//!
//! ```text
//! readings --+--> celsius ------------------+
//!            |              +--> frost --+  |
//!            +--> weather --+--> mild ---+--+--> report by place
//!                           +--> heat ---+
//!
//! cargo run --release --example fan_out_fan_in
//! ```

use millstream::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize)]
struct Reading {
    place: String,
    celsius: i32,
}

/// What one branch finds out about a place.
#[derive(Clone, Serialize, Deserialize)]
enum Fact {
    Celsius(i32),
    Advice(String),
}

/// What all branches have found out about a place.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Report {
    highest: Option<i32>,
    advice: Vec<String>,
}

fn advice(stream: Stream<Reading>, advice: &'static str) -> Stream<(String, Fact)> {
    stream.map(move |reading| (reading.place.clone(), Fact::Advice(advice.to_owned())))
}

#[tokio::main]
async fn main() -> Result<()> {
    let readings = [("Oslo", -12), ("Rome", 36), ("Bern", 18), ("Oslo", 3), ("Rome", 21), ("Bern", -2)];
    let readings = readings.map(|(place, celsius)| Reading { place: place.to_owned(), celsius });

    let pipeline = Pipeline::new("fan-out-fan-in").in_memory();
    let readings = pipeline.values(readings);
    // Broadcast: a clone reads every record, too, and nothing is copied.
    let celsius = readings.clone().map(|reading| (reading.place.clone(), Fact::Celsius(reading.celsius)));
    // Route: each record goes to one of these.
    let [frost, mild, heat] = readings.route(["frost", "mild", "heat"], |reading| match reading.celsius {
        ..0 => "frost",
        0..30 => "mild",
        30.. => "heat",
    });
    celsius
        .merge(advice(frost, "a coat"))
        .merge(advice(mild, "a jacket"))
        .merge(advice(heat, "much water"))
        .key_by(|(place, _)| place.clone())
        .fold("report", add, |place, report: &Report| {
            let highest = report.highest.map(|celsius| celsius.to_string()).unwrap_or_default();
            format!("{}: up to {highest} degrees; take {}", String::from_utf8_lossy(place), report.advice.join(", "))
        })
        // All in one piece, because places come in any order.
        .batch(Batching::open())
        .handle(|reports| async move {
            let mut reports = reports.into_values();
            reports.sort();
            reports.iter().for_each(|report| println!("{report}"));
        })
        .drop();
    pipeline.run().await?;
    Ok(())
}

/// The branches run at their own speed, so facts come in any order: this gives the same for all of them.
fn add(report: &mut Report, (_, fact): &(String, Fact)) {
    match fact {
        Fact::Celsius(celsius) => report.highest = report.highest.max(Some(*celsius)),
        Fact::Advice(advice) => {
            report.advice.push(advice.clone());
            report.advice.sort();
        }
    }
}
