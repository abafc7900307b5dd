//! What do the servers say of themselves meanwhile?
//!
//! Prometheus pages are read once a second on a thread of their own. Series of one name that differ only in labels are added up: of a
//! fleet one wants the sum of what waits. Histogram buckets are left out.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use http::Uri;
use tokio::task::LocalSet;

use crate::{drive::Watch, report::ServerSeries, target};

/// Names kept per page; more is no monitoring of a load test but a copy of a metrics store.
const NAMES_MAX: usize = 128;
/// How often pages are read.
const EVERY: Duration = Duration::from_secs(1);
/// A page that takes longer is left out this time.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Parts of names that are kept when none are asked for.
const TELLING: [&str; 9] =
    ["running", "waiting", "queue", "cache", "replicas", "groups", "preempt", "flight", "tokens"];

/// Reads pages until it is ended.
pub struct Scraper {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<Scraped>,
}

/// What was read.
#[derive(Debug, Default)]
pub struct Scraped {
    /// Series by page and name.
    pub series: Vec<ServerSeries>,
    /// The first thing that went wrong with each page.
    pub warnings: Vec<String>,
}

impl Scraper {
    /// Starts reading. `names`: parts of the names to keep.
    ///
    /// # Errors
    ///
    /// The system refuses a thread.
    pub fn start(pages: Vec<Uri>, names: Vec<String>, watch: Watch) -> std::io::Result<Self> {
        let ended = Arc::new(AtomicBool::new(false));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let until = ended.clone();
        let thread = std::thread::Builder::new().name("scraper".to_owned()).spawn(move || {
            LocalSet::new().block_on(&runtime, read(&pages, &names, &watch, &until))
        })?;
        Ok(Self { ended, thread })
    }

    /// Ends reading and returns what was read.
    #[must_use]
    pub fn end(self) -> Scraped {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

/// Mean time in the servers' queues over the run, ms: what a histogram's sum grew by over what its count grew by, as `vllm:request_queue_time_seconds`
/// has it. `None` where no server has such a histogram, or nothing passed its queue.
#[must_use]
pub fn queue_ms(series: &[ServerSeries]) -> Option<f64> {
    let growth = |end: &str| {
        let of = series.iter().filter(|one| one.metric.ends_with(end));
        of.filter_map(|one| Some(one.points.last()?.1 - one.points.first()?.1)).sum::<f64>()
    };
    let count = growth("queue_time_seconds_count");
    (count > 0.0).then(|| growth("queue_time_seconds_sum") / count * 1e3)
}

async fn read(pages: &[Uri], names: &[String], watch: &Watch, ended: &AtomicBool) -> Scraped {
    let mut series: BTreeMap<(usize, String), Vec<(f64, f64)>> = BTreeMap::new();
    let mut warnings: BTreeMap<usize, String> = BTreeMap::new();
    let mut next = tokio::time::interval(EVERY);
    next.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    while !ended.load(Ordering::Relaxed) {
        next.tick().await;
        let t_s = watch.elapsed().as_secs_f64();
        for (index, page) in pages.iter().enumerate() {
            let read = tokio::time::timeout(TIMEOUT, target::get(page, None, None)).await;
            let failed = match read.map(|page| page.and_then(target::success)) {
                Ok(Ok(body)) => {
                    let values = sums(&String::from_utf8_lossy(&body), names);
                    for (name, value) in values.into_iter().take(NAMES_MAX) {
                        series.entry((index, name)).or_default().push((t_s, value));
                    }
                    continue;
                }
                Ok(Err(error)) => error,
                Err(_) => format!("no answer within {} s", TIMEOUT.as_secs()),
            };
            warnings.entry(index).or_insert_with(|| format!("metrics of {page}: {failed}"));
        }
    }
    for (index, page) in pages.iter().enumerate() {
        if !series.keys().any(|(of, _)| *of == index) {
            let nothing =
                || format!("metrics of {page}: none of the wanted names is there, see --metric");
            warnings.entry(index).or_insert_with(nothing);
        }
    }
    let series = series.into_iter().map(|((page, metric), points)| ServerSeries {
        url: pages[page].to_string(),
        metric,
        points,
    });
    Scraped { series: series.collect(), warnings: warnings.into_values().collect() }
}

/// The sum of each metric over its labels.
fn sums(page: &str, names: &[String]) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let Some(end) = line.find(['{', ' ']) else { continue };
        let name = &line[..end];
        let rest = &line[line.rfind('}').map_or(end, |at| at + 1)..];
        let value = rest.split_whitespace().next().and_then(|value| value.parse::<f64>().ok());
        let Some(value) = value.filter(|value| value.is_finite()) else { continue };
        let wanted = if names.is_empty() {
            TELLING.iter().any(|part| name.contains(part))
        } else {
            names.iter().any(|part| name.contains(part.as_str()))
        };
        if wanted && !name.ends_with("_bucket") && !name.ends_with("_created") {
            *sums.entry(name.to_owned()).or_default() += value;
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# HELP x y\nvllm:num_requests_waiting{model_name=\"a b\"} 2\nvllm:num_requests_waiting{model_name=\"c\"} 3 1700\nqueue_bucket{le=\"1\"} 9\nup 1\nqueue_depth NaN\n";

    #[test]
    fn the_mean_time_in_a_queue_is_what_grew_meanwhile() {
        let series = |metric: &str, points: &[(f64, f64)]| ServerSeries {
            url: String::new(),
            metric: metric.to_owned(),
            points: points.to_vec(),
        };
        let sum = series("vllm:request_queue_time_seconds_sum", &[(0.0, 5.0), (9.0, 6.0)]);
        let count = series("vllm:request_queue_time_seconds_count", &[(0.0, 100.0), (9.0, 150.0)]);
        assert_eq!(queue_ms(&[sum, count]), Some(20.0));
        assert_eq!(queue_ms(&[]), None);
    }

    #[test]
    fn series_of_one_name_are_added_up() {
        let all = sums(PAGE, &[]);
        assert_eq!(all, BTreeMap::from([("vllm:num_requests_waiting".to_owned(), 5.0)]));
        assert_eq!(sums(PAGE, &["up".to_owned()]).get("up"), Some(&1.0));
    }
}
