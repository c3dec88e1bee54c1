//! How `top` looks.

use std::time::SystemTime;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Block, Cell, Paragraph, Row, Table, TableState};
use vm_model::Timestamp;

use super::super::amounts::{size, span};
use super::super::list::is_up;
use super::model::{Model, Order, Tracked, Usage};
use super::{Host, Pane};
use crate::colours::Colours;
use crate::printable::printable;

/// Width of a curve, in characters.
pub(super) const CURVE: usize = 12;
/// Heights of a bar, lowest first.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const KEYS: &str =
    "q quit  ↑↓ choose  c m n d i order by CPU, memory, network, disk, id  r reverse  Enter inspect  l logs";

/// From this width on there is room for what VMs waited for.
const WIDE: u16 = 90;

/// Whether it is shown how long VMs waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    Shown,
    Hidden,
}

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, model: &Model, host: &Host, pane: &Pane, colours: Colours) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(3), Constraint::Min(3), Constraint::Length(1)])
            .areas(frame.area());
    draw_head(frame, head, model, host);
    match pane {
        Pane::List => draw_list(frame, body, model),
        Pane::Text { title, text, scroll } => {
            let text = Paragraph::new(Text::raw(text.as_str())).scroll((*scroll, 0));
            frame.render_widget(text.block(Block::bordered().title(title.as_str())), body);
        }
    }
    let keys = match pane {
        Pane::List => KEYS,
        Pane::Text { .. } => "q back  ↑↓ PgUp PgDn scroll",
    };
    let foot_line = match &model.problem {
        Some(problem) => Line::from(printable(problem)).red(),
        None => Line::from(keys).dim(),
    };
    frame.render_widget(foot_line, foot);
    if colours == Colours::Unused {
        without_colours(frame);
    }
}

fn without_colours(frame: &mut Frame<'_>) {
    for cell in &mut frame.buffer_mut().content {
        cell.fg = Color::Reset;
        cell.bg = Color::Reset;
    }
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, model: &Model, host: &Host) {
    let total = model.total();
    let phases: Vec<String> =
        model.phases().into_iter().map(|(phase, count)| format!("{count} {phase}")).collect();
    let count: usize = model.phases().values().sum();
    let lines = [
        format!(
            "procurator-worker  {}  {count} VMs: {}",
            Timestamp::from(SystemTime::now()),
            phases.join(", ")
        ),
        format!(
            "host  CPU {:>3.0} % of {} cores   memory {} of {} used",
            host.busy_percent,
            host.processors,
            size(host.memory_used),
            size(host.memory_total)
        ),
        format!(
            "VMs   CPU {:>3.0} % of a core   memory {} resident   network {}   disk {}",
            total.cpu_percent,
            mebibytes(total.memory_bytes),
            rate(total.network),
            rate(total.disk)
        ),
    ];
    frame.render_widget(Text::from(lines.map(Line::from).to_vec()), area);
}

fn draw_list(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let now = Timestamp::now();
    let rows = model.rows();
    let waits = if area.width >= WIDE && rows.iter().any(|vm| vm.usage().waits_percent.is_some()) {
        Waits::Shown
    } else {
        Waits::Hidden
    };
    let longest = rows.iter().map(|vm| vm.view.id.as_str().len()).max().unwrap_or(2).clamp(4, 20);
    let mut columns = vec![
        ("ID", Some(Order::Name), Constraint::Length(u16::try_from(longest).unwrap_or(20))),
        ("PHASE", None, Constraint::Length(10)),
        ("CPU", Some(Order::Cpu), Constraint::Length(6)),
        ("", None, Constraint::Length(12)),
        ("MEMORY", Some(Order::Memory), Constraint::Length(10)),
        ("NETWORK", Some(Order::Network), Constraint::Length(10)),
        ("DISK", Some(Order::Disk), Constraint::Length(10)),
    ];
    columns.extend((waits == Waits::Shown).then_some(("WAITS", None, Constraint::Length(6))));
    columns.push(("UPTIME", None, Constraint::Min(7)));
    let heading = columns.iter().map(|&(name, order, _)| {
        let is_order = order == Some(model.order);
        let mark = match (is_order, model.is_reversed == (model.order == Order::Name)) {
            (false, _) => "",
            (true, true) => "▾",
            (true, false) => "▴",
        };
        Cell::from(format!("{name}{mark}")).style(Style::new().add_modifier(Modifier::BOLD))
    });
    let widths = columns.iter().map(|&(_, _, width)| width);
    let mut state = TableState::new().with_selected(model.selected().map(|(row, _)| row));
    // Only the rows that can be seen are made: a host may have many VMs.
    let visible = usize::from(area.height.saturating_sub(1)).max(1);
    let first = state.selected().map_or(0, |row| (row / visible) * visible);
    *state.selected_mut() = state.selected().map(|row| row - first);
    let shown = rows.into_iter().skip(first).take(visible).map(|vm| row(vm, now, waits));
    let table = Table::new(shown, widths)
        .header(Row::new(heading))
        .column_spacing(1)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    frame.render_stateful_widget(table, area, &mut state);
}

fn row(vm: &Tracked, now: Timestamp, waits: Waits) -> Row<'static> {
    let usage = vm.usage();
    let uptime = vm.view.started_at.filter(|_| is_up(&vm.view)).map(|start| span(now.since(start)));
    let phase = Span::styled(printable(&vm.view.phase), phase_style(&vm.view.phase));
    let mut cells = vec![
        Cell::from(vm.view.id.to_string()),
        Cell::from(phase),
        Cell::from(format!("{:>4.0} %", usage.cpu_percent)),
        Cell::from(curve(vm.past(), |usage| usage.cpu_percent)).style(Style::new().fg(Color::Cyan)),
        Cell::from(mebibytes(usage.memory_bytes)),
        Cell::from(rate(usage.network)),
        Cell::from(rate(usage.disk)),
    ];
    if waits == Waits::Shown {
        let waited = usage.waits_percent.map(|percent| format!("{percent:>4.0} %"));
        cells.push(Cell::from(waited.unwrap_or_default()));
    }
    cells.push(Cell::from(uptime.unwrap_or_default()));
    Row::new(cells)
}

fn phase_style(phase: &str) -> Style {
    match phase {
        "running" => Style::new().green(),
        "failed" => Style::new().red(),
        "stopped" => Style::new().dim(),
        _ => Style::new().yellow(),
    }
}

/// The newest of `past` as bars; the highest is full, unless all are small.
fn curve<'a>(past: impl DoubleEndedIterator<Item = &'a Usage>, figure: fn(&Usage) -> f64) -> String {
    let mut figures: Vec<f64> = past.rev().take(CURVE).map(figure).collect();
    figures.reverse();
    // Less than a tenth of a core is no mountain.
    let highest = figures.iter().copied().fold(10.0, f64::max);
    let bars = figures.iter().map(|figure| {
        let share = (figure / highest).clamp(0.0, 1.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 7")]
        let bar = (share * 7.0).round() as usize;
        BARS.get(bar).copied().unwrap_or('█')
    });
    format!("{:>CURVE$}", bars.collect::<String>())
}

/// Memory as `ls` has it, so that figures can be compared.
fn mebibytes(bytes: f64) -> String {
    format!("{:.0} MiB", bytes.max(0.0) / f64::from(1 << 20))
}

fn amount(bytes: f64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut figure, mut unit) = (bytes.max(0.0), 0);
    while figure >= 1000.0 && unit + 1 < UNITS.len() {
        figure /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && figure < 10.0);
    format!("{figure:.digits$} {}", UNITS[unit])
}

/// Bytes a second; nothing where nothing moves.
fn rate(bytes: f64) -> String {
    if bytes < 1.0 { "-".to_owned() } else { format!("{}/s", amount(bytes)) }
}
