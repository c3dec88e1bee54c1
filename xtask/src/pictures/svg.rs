//! A terminal's screen as a picture that scales: text in cells of one size, with its colours.

use std::fmt::Write;

use vt100::{Cell, Color, Screen};

/// A cell's width and height, and where its text stands, for letters of `LETTERS` pixels.
const CELL: (f32, f32) = (8.4, 17.0);
const BASELINE: f32 = 12.5;
const LETTERS: u16 = 14;
/// What is left around the text.
const MARGIN: f32 = 12.0;
/// The colours of a usual dark terminal: behind the text, the text, and the sixteen that have numbers.
const BACKGROUND: &str = "#1e2127";
const TEXT: &str = "#d3d7cf";
const PALETTE: [&str; 16] = [
    "#2e3436", "#cc0000", "#4e9a06", "#c4a000", "#3465a4", "#75507b", "#06989a", "#d3d7cf", "#555753",
    "#ef2929", "#8ae234", "#fce94f", "#729fcf", "#ad7fa8", "#34e2e2", "#eeeeec",
];

/// How a stretch of text looks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Look {
    colour: String,
    behind: Option<String>,
    bold: bool,
    faint: bool,
}

/// The screen, without the empty lines below what it shows.
pub(super) fn drawn(screen: &Screen) -> String {
    let (rows, columns) = size(screen);
    let is_empty =
        |row: &u16| screen.rows(0, columns).nth(usize::from(*row)).is_none_or(|text| text.trim().is_empty());
    let rows = (0..rows).rev().find(|row| !is_empty(row)).map_or(1, |last| last + 1);
    let (width, height) =
        (f32::from(columns) * CELL.0 + 2.0 * MARGIN, f32::from(rows) * CELL.1 + 2.0 * MARGIN);
    let mut picture = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {width:.0} {height:.0}\">\n<rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"{BACKGROUND}\"/>\n\
         <g font-family=\"ui-monospace,'DejaVu Sans Mono',Menlo,Consolas,monospace\" font-size=\"{LETTERS}\" \
         xml:space=\"preserve\">\n"
    );
    for row in 0..rows {
        draw_row(&mut picture, screen, row);
    }
    picture.push_str("</g>\n</svg>\n");
    picture
}

/// Lines, and characters in each.
fn size(screen: &Screen) -> (u16, u16) {
    let (rows, columns) = screen.size();
    (rows.get(), columns.get())
}

fn draw_row(picture: &mut String, screen: &Screen, row: u16) {
    let (_, columns) = size(screen);
    let mut texts = String::new();
    let mut column = 0;
    while column < columns {
        let (look, text, from) = stretch(screen, row, &mut column);
        let x = MARGIN + f32::from(from) * CELL.0;
        let width = f32::from(column - from) * CELL.0;
        if let Some(behind) = &look.behind {
            let y = MARGIN + f32::from(row) * CELL.1;
            let _ = writeln!(
                picture,
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{}\" fill=\"{behind}\"/>",
                CELL.1
            );
        }
        if !text.trim().is_empty() {
            let bold = if look.bold { " font-weight=\"bold\"" } else { "" };
            let faint = if look.faint { " opacity=\"0.6\"" } else { "" };
            let _ = write!(
                texts,
                "<tspan x=\"{x:.1}\" textLength=\"{width:.1}\" fill=\"{}\"{bold}{faint}>{}</tspan>",
                look.colour,
                escaped(&text)
            );
        }
    }
    if !texts.is_empty() {
        let y = MARGIN + f32::from(row) * CELL.1 + BASELINE;
        let _ = writeln!(picture, "<text y=\"{y:.1}\">{texts}</text>");
    }
}

/// The longest stretch from `column` on that looks the same, and where it begins. Blanks at its end are its own where they
/// have a colour behind them.
fn stretch(screen: &Screen, row: u16, column: &mut u16) -> (Look, String, u16) {
    let from = *column;
    let look_at = |column: u16| screen.cell(row, column).map(look).unwrap_or_default();
    let look = look_at(from);
    let mut text = String::new();
    while *column < size(screen).1 && look_at(*column) == look {
        match screen.cell(row, *column) {
            Some(cell) if cell.is_wide_continuation() => {}
            Some(cell) if cell.has_contents() => text.push_str(cell.contents()),
            Some(_) | None => text.push(' '),
        }
        *column += 1;
    }
    (look, text, from)
}

fn look(cell: &Cell) -> Look {
    let (front, behind) = match cell.inverse() {
        true => (colour(cell.bgcolor(), BACKGROUND), Some(colour(cell.fgcolor(), TEXT))),
        false => {
            let behind = cell.bgcolor() != Color::Default;
            (colour(cell.fgcolor(), TEXT), behind.then(|| colour(cell.bgcolor(), BACKGROUND)))
        }
    };
    Look { colour: front, behind, bold: cell.bold(), faint: cell.dim() }
}

/// A colour in the words of SVG.
fn colour(colour: Color, default: &str) -> String {
    match colour {
        Color::Default => default.to_owned(),
        Color::Idx(index) => indexed(index),
        Color::Rgb(red, green, blue) => format!("#{red:02x}{green:02x}{blue:02x}"),
    }
}

/// One of the 256 colours: sixteen with names, a cube of six steps each way, and 24 greys.
fn indexed(index: u8) -> String {
    const STEPS: [u8; 6] = [0, 95, 135, 175, 215, 255];
    match index {
        0..16 => PALETTE[usize::from(index)].to_owned(),
        16..232 => {
            let cube = index - 16;
            let step = |number: u8| STEPS[usize::from(number % 6)];
            format!("#{:02x}{:02x}{:02x}", step(cube / 36), step(cube / 6), step(cube))
        }
        232.. => {
            let grey = 8 + (index - 232) * 10;
            format!("#{grey:02x}{grey:02x}{grey:02x}")
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
