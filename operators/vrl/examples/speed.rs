//! How many records each step and some chains of them handle in a second on one core.
//!
//! `cargo run --release -p millstream-vrl --example speed [PART OF A NAME]`

use std::{
    future::Future,
    sync::LazyLock,
    task::{Context, Poll, Waker},
    time::Instant,
};

use millstream_core::{Batch, BatchBuilder, Form, Output, PlanContext, Planner, Record, Result, Step};
use serde_json::{Value, json};

/// Records of each batch, and how often the batch is given.
const RECORDS: usize = 4096;
const ROUNDS: usize = 100;

const ORDER: &str = r#"{"id":918273,"customer":"c-1042","amount":"12.50","currency":"EUR","status":200,"path":"/shop/cart/checkout","agent":"Mozilla/5.0 (X11; Linux x86_64)","tags":["a","b"],"geo":{"lat":52.52,"lon":13.405}}"#;
const LINE: &str =
    "Call me Ishmael. Some years ago, never mind how long precisely, having little or no money in my purse";
const FIVE_FIELDS: &str = ".total = to_float!(.amount) * 1.19\n.name = upcase!(.customer)\n.ok = .status == 200\n\
    .place = .geo.lat\n.kind = \"order\"";

fn main() -> Result<()> {
    println!("record of {} bytes", ORDER.len());
    let aggregate = |key: &str| json!({"key": key, "fields": {"count": "count()"}, "emit": "end"});
    measure("map, five fields", Form::Json, ORDER, &[("map", json!(FIVE_FIELDS))])?;
    for line in FIVE_FIELDS.lines() {
        measure(&format!("map, {line}"), Form::Json, ORDER, &[("map", json!(line))])?;
    }
    measure("map, one field", Form::Json, ORDER, &[("map", json!(".ok = true"))])?;
    measure("filter, plain comparison", Form::Json, ORDER, &[("filter", json!(".status == 200"))])?;
    measure("filter, a call", Form::Json, ORDER, &[("filter", json!("to_float(.amount) > 1"))])?;
    measure("filter, a comparison that can fail", Form::Json, ORDER, &[("filter", json!(".status > 1 && .id > 1"))])?;
    measure("filter, text", Form::Text, LINE, &[("filter", json!(". != \"\""))])?;
    let route = json!({"to": {"a": ".status > 300", "b": ".status <= 300"}, "rest": "drop"});
    measure("route", Form::Json, ORDER, &[("route", route)])?;
    measure("aggregate, count by a field", Form::Json, ORDER, &[("aggregate", aggregate(".customer"))])?;
    let sum = json!({"key": ".customer", "fields": {"n": "sum(.status)"}, "emit": "end"});
    measure("aggregate, sum by a field", Form::Json, ORDER, &[("aggregate", sum)])?;
    let chain = [
        ("filter", json!(".status == 200")),
        ("map", json!(FIVE_FIELDS)),
        ("filter", json!(".total > 2.0")),
        ("map", json!(".done = true")),
    ];
    measure("filter, map, filter, map", Form::Json, ORDER, &chain)?;
    let words = [
        ("map", json!(". = split(downcase(string!(.)), r'[^a-z]+')")),
        ("split", json!({})),
        ("filter", json!(". != \"\"")),
        ("aggregate", aggregate(".")),
    ];
    for steps in 1..=words.len() {
        measure(&format!("word count, {steps} steps"), Form::Text, LINE, &words[..steps])?;
    }
    Ok(())
}

/// Runs the steps one behind the other, values as bytes at the end.
fn measure(name: &str, form: Form, value: &str, steps: &[(&str, Value)]) -> Result<()> {
    if std::env::args().nth(1).is_some_and(|wanted| !name.contains(&wanted)) {
        return Ok(());
    }
    let (mut form, mut running) = (form, Vec::new());
    let given = batch(form, value);
    for (step, options) in steps {
        let Some(component) = millstream_vrl::components().into_iter().find(|component| component.name == *step) else {
            continue;
        };
        let Planner::Step(plan) = component.planner else { continue };
        let plan = plan(options, &PlanContext { form, ..PlanContext::default() })?;
        form = plan.form();
        running.push(plan.create()?);
    }
    let (mut seen, mut bytes) = (0, 0);
    let start = on_cpu();
    for _ in 0..ROUNDS {
        let mut batches = vec![given.clone()];
        for step in &mut running {
            let mut next = Vec::new();
            for batch in batches {
                let mut out = Output::default();
                seen = seen.max(batch.len());
                match step {
                    Step::Transform(transform) => transform.apply(batch, &mut out),
                    Step::Operator(operator) => now(operator.process(0, batch, &mut out))?,
                }
                assert!(out.take_failed().is_empty(), "{name}: a record failed");
                next.extend(out.take_batches().into_iter().map(|(_, batch)| batch));
            }
            batches = next;
        }
        for batch in batches {
            seen = seen.max(batch.len());
            bytes += batch.into_bytes().size();
        }
    }
    let seconds = on_cpu() - start;
    // Of a chain, the widest place counts: words rather than lines.
    let rate = (seen * ROUNDS) as f64 / seconds;
    println!("{name:40} {:>8.0} k/s   {:>5.0} ns each   ({bytes} bytes out)", rate / 1e3, 1e9 / rate);
    Ok(())
}

/// Seconds that this thread was on a core, so that others on the machine count little; where the system does not tell, wall time.
fn on_cpu() -> f64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let told = std::fs::read_to_string("/proc/self/schedstat").ok();
    let nanos: Option<f64> = told.and_then(|text| text.split(' ').next()?.parse().ok());
    nanos.map_or_else(|| START.elapsed().as_secs_f64(), |nanos| nanos / 1e9)
}

fn batch(form: Form, value: &str) -> Batch {
    let mut builder = BatchBuilder::new();
    for sequence in 0..RECORDS as u128 {
        builder.push(&Record { sequence, form, ..Record::new("orders", value.to_owned()) });
    }
    builder.finish()
}

fn now<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    loop {
        if let Poll::Ready(done) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return done;
        }
    }
}
