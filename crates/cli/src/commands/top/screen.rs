//! What `top` draws: each pipeline as a table of its stages, and below it what limits it.

use millstream::observe::{BufferReport, StageReport};
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Borders, Cell, Paragraph, Row, Table, Wrap},
};

use super::super::status::{BUFFER_COLUMNS, COLUMNS, buffer_cells, cells, head};
use crate::asking::Found;

/// A stage that works or waits for room for more than this share of its time stands out.
const MUCH: f64 = 0.85;
/// Lines for what limits a pipeline.
const WORDS_HEIGHT: u16 = 2;

/// What is on the screen.
pub(super) struct Screen {
    pub(super) found: Vec<Found>,
    /// The answer to the last key.
    pub(super) said: Option<String>,
    /// For how long no process has answered, when that is long.
    pub(super) quiet_seconds: Option<u64>,
    selected: usize,
    colour: bool,
}

impl Screen {
    pub(super) fn new(found: Vec<Found>, colour: bool) -> Self {
        Screen { found, said: None, quiet_seconds: None, selected: 0, colour }
    }

    /// The pipeline that keys are for.
    pub(super) fn selected(&self) -> Option<&Found> {
        self.found.get(self.selected.min(self.found.len().saturating_sub(1)))
    }

    /// The next pipeline, or the one before.
    pub(super) fn select(&mut self, by: isize) {
        let last = self.found.len().saturating_sub(1);
        self.selected = self.selected.min(last).saturating_add_signed(by).min(last);
    }

    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let [body, keys] = Layout::vertical([Constraint::Min(0), Constraint::Length(1)]).areas(frame.area());
        // The one that keys are for is always in sight, whatever has room beside it.
        let selected = self.selected.min(self.found.len().saturating_sub(1));
        let mut first = selected;
        let mut height = self.height(first);
        while first > 0 && height + self.height(first - 1) <= body.height {
            first -= 1;
            height += self.height(first);
        }
        let mut top = body.y;
        for (at, found) in self.found.iter().enumerate().skip(first) {
            let room = body.bottom().saturating_sub(top);
            if room < 3 {
                break;
            }
            let area = Rect { y: top, height: self.height(at).min(room), ..body };
            self.pipeline(frame, area, found, at == selected);
            top += area.height;
        }
        let help = "q quit   up/down choose   p pause, go on   c commit now";
        let line = match (self.quiet_seconds, &self.said) {
            (Some(seconds), _) => format!("no answer for {seconds} s   {help}"),
            (None, Some(said)) => format!("{help}   {said}"),
            (None, None) => help.to_owned(),
        };
        frame.render_widget(Paragraph::new(line).style(self.style(Color::DarkGray)), keys);
    }

    /// Lines of a pipeline: a frame, heads, its stages, its buffers with their heads, words.
    fn height(&self, at: usize) -> u16 {
        let lines = self.found.get(at).map_or(0, |found| found.report.stages.len() + buffer_lines(found));
        u16::try_from(lines).unwrap_or(u16::MAX).saturating_add(3 + WORDS_HEIGHT)
    }

    fn pipeline(&self, frame: &mut Frame<'_>, area: Rect, found: &Found, selected: bool) {
        let border = if selected && self.found.len() > 1 { Color::Cyan } else { Color::DarkGray };
        let title = format!(" {} ({}) ", head(&found.report), found.process.pid);
        let block =
            Block::new().borders(Borders::ALL).border_style(self.style(border)).title(Span::styled(title, self.bold()));
        let inner = block.inner(area);
        frame.render_widget(block, area);
        let buffers = Constraint::Length(u16::try_from(buffer_lines(found)).unwrap_or(u16::MAX));
        let parts = [Constraint::Min(0), buffers, Constraint::Length(WORDS_HEIGHT)];
        let [stages, buffers, words] = Layout::vertical(parts).areas(inner);
        frame.render_widget(self.table(&found.report.stages), stages);
        if !found.report.buffers.is_empty() {
            frame.render_widget(self.buffers(&found.report.buffers), buffers);
        }
        let text = Line::styled(found.report.bottleneck.as_str(), self.style(Color::Yellow));
        frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), words);
    }

    fn table(&self, stages: &[StageReport]) -> Table<'static> {
        let rows = stages.iter().map(|stage| {
            let style = match stage {
                stage if stage.waiting.is_some() => self.style(Color::Red),
                stage if stage.shares.busy > MUCH => self.style(Color::Yellow),
                stage if stage.shares.blocked > MUCH => self.style(Color::Blue),
                _ => Style::new(),
            };
            row(&COLUMNS, cells(stage)).style(style)
        });
        let widths = COLUMNS.map(|head| match head {
            "STAGE" => Constraint::Min(12),
            "KIND" => Constraint::Length(12),
            ">IN" | ">OUT" => Constraint::Length(13),
            ">QUEUE" => Constraint::Length(11),
            ">IN/S" | ">OUT/S" => Constraint::Length(10),
            _ => Constraint::Length(7),
        });
        Table::new(rows.collect::<Vec<_>>(), widths).header(heads(&COLUMNS).style(self.bold()))
    }

    fn buffers(&self, buffers: &[BufferReport]) -> Table<'static> {
        let rows = buffers.iter().map(|buffer| {
            let style = if buffer.waiting.is_some() { self.style(Color::Red) } else { Style::new() };
            row(&BUFFER_COLUMNS, buffer_cells(buffer)).style(style)
        });
        let widths = BUFFER_COLUMNS.map(|head| match head {
            "BUFFER" => Constraint::Min(12),
            "WAITING" => Constraint::Fill(1),
            ">FILL" => Constraint::Length(14),
            _ => Constraint::Length(13),
        });
        Table::new(rows.collect::<Vec<_>>(), widths).header(heads(&BUFFER_COLUMNS).style(self.bold()))
    }

    /// A colour, where there are colours.
    fn style(&self, colour: Color) -> Style {
        if self.colour { Style::new().fg(colour) } else { Style::new() }
    }

    fn bold(&self) -> Style {
        if self.colour { Style::new().add_modifier(Modifier::BOLD) } else { Style::new() }
    }
}

/// Lines of a pipeline's buffers.
fn buffer_lines(found: &Found) -> usize {
    match found.report.buffers.len() {
        0 => 0,
        buffers => buffers + 1,
    }
}

/// Heads; one that begins with `>` stands for numbers.
fn heads(columns: &[&'static str]) -> Row<'static> {
    row(columns, columns.iter().map(|head| head.trim_start_matches('>').to_owned()))
}

fn row(columns: &[&'static str], cells: impl IntoIterator<Item = String>) -> Row<'static> {
    let right = columns.iter().map(|head| head.starts_with('>'));
    Row::new(cells.into_iter().zip(right).map(|(text, right)| aligned(text, right)).collect::<Vec<_>>())
}

fn aligned(text: String, right: bool) -> Cell<'static> {
    let line = Line::from(text);
    Cell::from(if right { line.right_aligned() } else { line })
}

#[cfg(test)]
mod tests {
    use millstream::observe::{PipelineReport, Shares, control::Process};
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;

    fn found(name: &str, stages: usize) -> Found {
        let stage = |number: usize| StageReport {
            name: format!("stage-{number}"),
            role: "step".to_owned(),
            kind: "map".to_owned(),
            workers: 3,
            shares: Shares { busy: 0.98, blocked: 0.0, idle: 0.02 },
            ..StageReport::default()
        };
        let report = PipelineReport {
            name: name.to_owned(),
            phase: "running".to_owned(),
            delivery: "at least once".to_owned(),
            bottleneck: "`stage-1` is busy 98 % of the time".to_owned(),
            stages: (1..=stages).map(stage).collect(),
            ..PipelineReport::default()
        };
        Found { process: Process { pid: 4711, socket: "x.sock".into() }, report }
    }

    fn drawn(screen: &Screen, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn a_pipeline_is_drawn_with_its_stages_and_what_limits_it() {
        let text = drawn(&Screen::new(vec![found("orders", 2)], true), 130, 20);
        for part in ["orders: running, at least once", "(4711)", "stage-1 x3", "98%", "busy 98 % of the time", "q quit"]
        {
            assert!(text.contains(part), "`{part}` in\n{text}");
        }
    }

    #[test]
    fn buffers_stand_below_the_stages_and_say_why_nothing_gets_in() {
        let mut found = found("orders", 2);
        let waiting = Some("the buffer of `out` is full".to_owned());
        let (fill, disk_bytes_max) = (0.97, 1 << 20);
        let buffer = BufferReport {
            sink: "out".to_owned(),
            records: 1234,
            fill,
            disk_bytes_max,
            waiting,
            ..BufferReport::default()
        };
        found.report.buffers = vec![buffer];
        let screen = Screen::new(vec![found], false);
        let text = drawn(&screen, 130, 20);
        let line = |with: &str| text.lines().position(|line| line.contains(with)).unwrap_or_else(|| panic!("{text}"));
        assert!(line("stage-2") < line("BUFFER") && line("BUFFER") < line("busy 98 %"), "{text}");
        assert_eq!(line("1,234"), line("97% of 1MiB"));
        assert_eq!(line("1,234"), line("the buffer of `out` is full"));
        (0..12).for_each(|height| drop(drawn(&screen, 30, height.max(1))));
    }

    #[test]
    fn the_chosen_pipeline_is_in_sight() {
        let mut screen = Screen::new((0..9).map(|number| found(&format!("pipeline-{number}"), 3)).collect(), false);
        assert!(drawn(&screen, 130, 20).contains("pipeline-0"));
        (0..20).for_each(|_| screen.select(1));
        assert_eq!(screen.selected().unwrap().report.name, "pipeline-8");
        let text = drawn(&screen, 130, 20);
        assert!(text.contains("pipeline-8") && !text.contains("pipeline-0"), "{text}");
        screen.select(-1);
        assert_eq!(screen.selected().unwrap().report.name, "pipeline-7");
        screen.found.truncate(1);
        assert_eq!(screen.selected().unwrap().report.name, "pipeline-0", "the others have ended");
    }

    #[test]
    fn no_terminal_is_too_small_and_no_colour_means_none() {
        let screen = Screen::new(vec![found("orders", 5)], false);
        for (width, height) in [(1, 1), (2, 3), (10, 4), (200, 1), (3, 200)] {
            drawn(&screen, width, height);
        }
        let mut terminal = Terminal::new(TestBackend::new(130, 20)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        let plain = |cell: &ratatui::buffer::Cell| (cell.fg, cell.bg) == (Color::Reset, Color::Reset);
        assert!(terminal.backend().buffer().content().iter().all(plain));
    }
}
