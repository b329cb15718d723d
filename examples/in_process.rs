//! The keyed pool by itself: every key's records in order, different keys in parallel.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keylane::{Record, Runtime, Subscription};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let history = Arc::new(Mutex::new(HashMap::<String, Vec<String>>::new()));

    // One runtime for the whole process: 256 lanes of 1,000 records, a worker thread a core.
    let runtime = Runtime::builder().build()?;
    let noted = history.clone();
    let orders = runtime.subscribe(Subscription::new("orders"), move |record: &Record| {
        let key = String::from_utf8_lossy(record.key().unwrap_or_default()).into_owned();
        let event = std::str::from_utf8(record.payload())?.to_owned(); // any error converts by `?`
        let mut history = noted.lock().map_err(|_| "the history is broken")?;
        history.entry(key).or_default().push(event);
        Ok(())
    })?;

    for event in ["placed", "paid", "packed"] {
        for order in 0..100 {
            // Waits up to 500 ms if its lane is full; then the record comes back in the error.
            orders.submit(Record::new(format!("order-{order}"), event))?;
        }
    }
    // A receipt tells how one record ended. It is a future, too.
    let receipt = orders.submit_tracked(Record::new("order-42", "shipped"))?;
    assert!(receipt.wait_timeout(Duration::from_secs(5))?.is_done());

    // Takes nothing more, handles what was taken, and says what was left: nothing.
    let report = runtime.close(Duration::from_secs(5))?;
    assert!(report.drained && report.records.is_empty());

    let history = history.lock().map_err(|_| "the history is broken")?;
    assert_eq!(history.len(), 100);
    assert_eq!(history["order-7"], ["placed", "paid", "packed"]);
    assert_eq!(history["order-42"], ["placed", "paid", "packed", "shipped"]);
    println!("{} orders, each in its order", history.len());
    Ok(())
}
