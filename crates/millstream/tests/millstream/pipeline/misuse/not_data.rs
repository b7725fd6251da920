use millstream::Pipeline;

#[derive(Clone)]
pub struct Order;

pub fn pipeline() {
    Pipeline::new("orders").source("file:orders.ndjson").json::<Order>();
}
