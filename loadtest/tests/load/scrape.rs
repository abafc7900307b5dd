//! What servers say of themselves meanwhile.

use glint_loadtest::{drive::Watch, scrape::Scraper};

use crate::{
    kit::open,
    mock::{Mock, answer, wait_for},
};

#[test]
fn pages_are_read_again_and_again_and_what_cannot_be_read_is_told_once() {
    let mock = Mock::start(|_| answer(&["a"]));
    let page = format!("{}/metrics", mock.url()).parse().unwrap();
    let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = format!("http://{free}/metrics").parse().unwrap();
    let scraper = Scraper::start(vec![page, nobody], Vec::new(), Watch::new(&open())).unwrap();
    wait_for("two readings", || mock.scrapes() >= 2);
    let scraped = scraper.end();
    assert_eq!(scraped.series.len(), 1);
    assert_eq!(scraped.series[0].metric, "queue_depth");
    let values: Vec<f64> = scraped.series[0].points.iter().map(|point| point.1).collect();
    assert_eq!(values[..2], [2.0, 4.0]);
    assert!(scraped.series[0].points.is_sorted_by_key(|point| point.0));
    assert_eq!(scraped.warnings.len(), 1);
    assert!(scraped.warnings[0].contains("cannot connect to"), "{:?}", scraped.warnings);
}
