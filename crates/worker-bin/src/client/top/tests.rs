//! What `top` shows of made-up VMs.

use std::time::{Duration, Instant};

use admin::{HostUseView, MetricsView, VmView};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::model::Model;
use super::*;

fn vm(id: &str, phase: &str, cpu_percent: f64, received: u64) -> VmView {
    let json = serde_json::json!({
        "id": id, "phase": phase, "desired": "running", "reason": null, "address": null, "mac": null, "tap": null,
        "store_path": "/nix/store/x", "hash": "sha256-x=", "generation": 3, "restarts": 1, "last_stop": null,
        "timings": {}, "warnings": [], "unverified": [], "metrics": null,
    });
    let metrics = MetricsView {
        cpu_percent,
        memory_resident_bytes: 93 << 20,
        network_rx_bytes: received,
        ..MetricsView::default()
    };
    VmView { metrics: Some(metrics), ..serde_json::from_value(json).expect("the form of an older worker") }
}

fn ids(model: &Model) -> Vec<String> {
    model.rows().iter().map(|vm| vm.view.id.to_string()).collect()
}

fn screen(model: &Model, pane: &Pane) -> String {
    screen_of(80, model, pane)
}

fn screen_of(width: u16, model: &Model, pane: &Pane) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, 24)).expect("a terminal");
    let host = Host::default();
    terminal.draw(|frame| draw::draw(frame, model, &host, pane, Colours::Unused)).expect("drawn");
    let buffer = terminal.backend().buffer();
    let lines = buffer
        .content
        .chunks(usize::from(width))
        .map(|line| line.iter().map(|cell| cell.symbol()).collect::<String>());
    lines.map(|line| line.trim_end().to_owned() + "\n").collect()
}

#[test]
fn rates_are_between_samples_and_orders_are_kept() {
    let mut model = Model::default();
    let begin = Instant::now();
    model.update(vec![vm("a-10", "running", 5.0, 0), vm("a-2", "running", 150.0, 0)], begin);
    assert_eq!(ids(&model), ["a-2", "a-10"], "the busiest first");
    let later = begin + Duration::from_secs(5);
    model.update(vec![vm("a-10", "running", 6.0, 5 << 20), vm("a-2", "running", 100.0, 0)], later);
    let rates: Vec<f64> = model.rows().iter().map(|vm| vm.usage().network).collect();
    assert_eq!(rates, [0.0, f64::from(1 << 20)]);
    model.order = Order::Network;
    assert_eq!(ids(&model), ["a-10", "a-2"]);
    model.order = Order::Name;
    assert_eq!(ids(&model), ["a-2", "a-10"]);
    model.is_reversed = true;
    assert_eq!(ids(&model), ["a-10", "a-2"]);
    assert_eq!(model.selected().map(|(row, vm)| (row, vm.view.id.to_string())), Some((1, "a-2".to_owned())));
    model.move_by(-5);
    assert_eq!(model.selected().map(|(row, _)| row), Some(0));

    // A machine that is gone uses nothing; a list without the VM pointed at points at another.
    model.update(vec![vm("a-2", "stopped", 100.0, 0)], later + Duration::from_secs(5));
    assert_eq!(model.rows()[0].usage().cpu_percent, 0.0);
    assert_eq!(model.selected().map(|(row, vm)| (row, vm.view.id.to_string())), Some((0, "a-2".to_owned())));
}

#[test]
fn it_fits_the_smallest_screen() {
    let mut model = Model::default();
    let listed: Vec<VmView> = (0..500).map(|number| vm(&format!("vm-{number}"), "running", 3.0, 0)).collect();
    model.update(listed, Instant::now());
    model.move_by(499);
    let shown = screen(&model, &Pane::List);
    assert!(shown.contains("500 VMs: 500 running"), "{shown}");
    assert!(shown.contains("vm-499 running       3 %"), "the one pointed at is in sight:\n{shown}");
    assert!(shown.contains(" 93 MiB "), "as `ls` has it: {shown}");
    let text = Pane::Text { title: " vm-1 ".to_owned(), text: "id  vm-1".to_owned(), scroll: 0 };
    assert!(screen(&model, &text).contains("id  vm-1"));
    model.problem = Some("the worker does not answer\u{1b}[2J".to_owned());
    assert!(
        screen(&model, &Pane::List).contains("does not answer\\u{1b}"),
        "what went wrong is told, harmlessly"
    );
}

#[test]
fn what_vms_waited_for_is_shown_where_there_is_room() {
    let waiting = |cpu_pressure_ms, io_pressure_ms| {
        let host = HostUseView { cpu_pressure_ms, io_pressure_ms, ..HostUseView::default() };
        let mut vm = vm("a", "running", 5.0, 0);
        vm.metrics = vm.metrics.map(|metrics| MetricsView { host: Some(host), ..metrics });
        vm
    };
    let mut model = Model::default();
    let begin = Instant::now();
    model.update(vec![waiting(7_000, 100)], begin);
    model.update(vec![waiting(7_500, 1_600)], begin + Duration::from_secs(5));
    assert_eq!(model.rows()[0].usage().waits_percent, Some(30.0), "the longest of its waits");
    let wide = screen_of(90, &model, &Pane::List);
    assert!(wide.contains("WAITS") && wide.contains("  30 %"), "{wide}");
    assert!(!screen(&model, &Pane::List).contains("WAITS"), "what is there already has the room");
    model.update(vec![vm("a", "running", 5.0, 0)], begin + Duration::from_secs(10));
    assert!(!screen_of(90, &model, &Pane::List).contains("WAITS"), "nobody counts it");
}

#[tokio::test]
async fn a_text_is_left_by_its_key_and_the_program_by_the_one_that_interrupts() {
    let client = AdminClient::new("/nonexistent/worker.sock");
    let text = || Pane::Text { title: String::new(), text: String::new(), scroll: 0 };
    let mut view =
        View { model: Model::default(), host: Host::default(), pane: text(), colours: Colours::Unused };
    assert_eq!(view.obey(&client, Action::Back).await, Goes::On);
    assert!(matches!(view.pane, Pane::List), "the list is shown again");
    view.pane = text();
    assert_eq!(view.obey(&client, Action::Leave).await, Goes::Away);
    view.pane = Pane::List;
    assert_eq!(view.obey(&client, Action::Back).await, Goes::Away);
}

#[test]
fn keys_do_what_the_foot_says() {
    let press = |code| action(KeyEvent::new(code, KeyModifiers::NONE));
    assert_eq!(press(KeyCode::Char('q')), Action::Back);
    assert_eq!(press(KeyCode::Char('c')), Action::Order(Order::Cpu));
    assert_eq!(action(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Action::Leave);
    assert_eq!(press(KeyCode::Down), Action::Move(1));
    assert_eq!(press(KeyCode::F(1)), Action::Ignore);
}

#[test]
fn curves_and_rates_are_there_from_the_beginning() {
    let mut model = Model::default();
    model.update(vec![vm("a", "running", 40.0, 20 << 20), vm("b", "stopped", 0.0, 0)], Instant::now());
    let point = |second: u64, cpu_percent: f64, received: u64| admin::UsagePoint {
        at: Timestamp::from_millis(second * 1000),
        cpu_percent,
        memory_resident_bytes: 1 << 20,
        network_rx_bytes: received,
        network_tx_bytes: 0,
        disk_read_bytes: 0,
        disk_write_bytes: 0,
    };
    let past = vec![point(0, 0.0, 0), point(5, 80.0, 5 << 20), point(10, 40.0, 20 << 20)];
    let names = ["a", "b", "gone"].map(|name| (VmId::new(name), past.clone()));
    model.recall(&names.into_iter().collect());
    let of = |name: &str| model.rows().into_iter().find(|row| row.view.id.as_str() == name).expect("there");
    let seen: Vec<(f64, f64)> = of("a").past().map(|usage| (usage.cpu_percent, usage.network)).collect();
    assert_eq!(seen, [(80.0, f64::from(1 << 20)), (40.0, f64::from(3 << 20))]);
    assert_eq!(of("b").usage().cpu_percent, 0.0, "what is off uses nothing");
    let picture = screen(&model, &Pane::List);
    assert!(picture.contains("█▅") || picture.contains("█▄"), "{picture}");
    assert!(picture.contains("3.0 MiB/s"), "{picture}");
}
