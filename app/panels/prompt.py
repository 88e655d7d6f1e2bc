"""The prompt: text, chat, several texts or a picture; its tokens as they will be sent, live."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from PySide6.QtCore import Qt, QTimer, Slot
from PySide6.QtGui import QImage, QResizeEvent
from PySide6.QtWidgets import QApplication, QMenu, QStackedWidget, QVBoxLayout, QWidget

from app import pictures
from app.background import Background
from app.panels.panel import Dispatch, Panel
from app.state import batch, select
from app.state.image_intents import StartEmpty, StartPicture
from app.state.intents import (
    Announce,
    DismissNotice,
    EditBatch,
    EditMessage,
    EditText,
    Intent,
    SelectTab,
    TokenizeDraft,
)
from app.state.state import AppState, Draft, Tab
from app.widgets.arrow_tabs import ArrowTabs
from app.widgets.chat_editor import ChatEditor
from app.widgets.image_editor import ImageEditor
from app.widgets.late_menu import LateMenu
from app.widgets.text_edit import TextEdit
from app.widgets.token_summary import TokenSummary
from app.widgets.visible_text import one_line, plain_label, plain_tip
from core.contract import ModelInfo, Picture

SLOW_MS = 400  # reading a picture for longer is told
REST_MS = 120  # typing rests this long before the draft is tokenised
LONGEST_ENTRY = 60  # characters of a prompt in the menu
TABS: tuple[Tab, ...] = ("text", "chat", "batch", "image")
WIDE_PX = 300  # from here on there is room for four tabs and a word
LEAST_PX = {"text": 52, "chat": 184, "batch": 52, "image": 186}  # height of the editors


class PromptPanel(Panel):
    """Emits edits of the draft, and asks for its tokens once typing rests."""

    name = "prompt"

    def __init__(self, dispatch: Dispatch, parent: QWidget | None = None) -> None:
        super().__init__(dispatch, parent)
        self.title = self.tr("Prompt")
        self._draft: Draft | None = None
        self._model: object = None
        self._asked = -1
        names = (self.tr("Text"), self.tr("Chat"), self.tr("Batch"), self.tr("Image"))
        what = self.tr("A text to continue, a chat, several texts at once, or a picture to go on with")
        self.tabs = ArrowTabs(names, self.tr("Kind of prompt"), what)
        self.tabs.setProperty("dense", True)
        self.text = TextEdit()
        self.text.setAccessibleName(self.tr("Prompt text"))
        self.text.setAccessibleDescription(self.tr("The beginning of a text; Ctrl+Enter continues it"))
        self.chat = ChatEditor(dispatch)
        self.batch = TextEdit()
        self.batch.setAccessibleName(self.tr("Prompts of the batch"))
        self.batch.setAccessibleDescription(self.tr("One prompt on each line; Ctrl+Enter continues all of them"))
        self._invite(paints=False)
        self.stack = QStackedWidget()
        self.stack.addWidget(self.text)
        self.stack.addWidget(self.chat)
        self.stack.addWidget(self.batch)
        self.image = ImageEditor(self._edit_image, self.open_picture)
        self.stack.addWidget(self.image)
        self._files = Background(self)
        self._wanted = 0  # pictures asked for; only the last one counts
        self._picture: Picture | None = None  # of the draft, and what it was when the last of them was asked for
        self._instead: Picture | None = None
        self._said: dict[str, str] = {}  # a sentence that holds for a while, by what it is about
        self._theme = ""
        self.summary = TokenSummary()
        self._recent: tuple[str, ...] = ()
        self.recent = LateMenu(self.tr("Recent"), self.tr("Prompts that were run before"), self._fill)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(6)
        box.addWidget(self.stack, 1)
        box.addWidget(self.summary)
        self._rest = QTimer(self)
        self._rest.setSingleShot(True)
        self._rest.setInterval(REST_MS)
        self._rest.timeout.connect(self._tokenize)
        self.text.edited.connect(self._text_edited)
        self.batch.edited.connect(self._batch_edited)
        self.tabs.currentChanged.connect(self._tab_changed)
        self.setFocusProxy(self.text)

    def header_widgets(self) -> tuple[QWidget, ...]:
        return (self.tabs,)

    def header_right_widgets(self) -> tuple[QWidget, ...]:
        return (self.recent,)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """The tabs come first: the menu of recent prompts gives its word up for them."""
        super().resizeEvent(event)
        self.recent.setText(self.tr("Recent ▾") if self.width() >= WIDE_PX else "▾")

    def _fill(self, menu: QMenu) -> None:
        for text in self._recent:
            line = one_line(text[:200])
            shown = line if len(line) <= LONGEST_ENTRY else line[: LONGEST_ENTRY - 1] + "…"
            menu.addAction(plain_label(shown), partial(self._take, text))

    def _take(self, text: str) -> None:
        tab, draft = ("text", Draft()) if self._draft is None else (self._draft.tab, self._draft)
        if tab == "batch":
            before = draft.batch.rstrip("\n")
            self.dispatch(EditBatch(before + "\n" * bool(before) + batch.as_lines((text,)), whole=True))
        else:
            self.dispatch(EditMessage(text, whole=True) if tab == "chat" else EditText(text, whole=True))

    def render(self, state: AppState) -> None:  # type: ignore[override]
        """Follow the draft; the editors keep what the user is typing."""
        draft, model = state.draft, state.model
        self._recent = state.recent_prompts
        self.recent.setEnabled(bool(self._recent))
        if state.theme != self._theme:
            self._theme = state.theme
            self.image.set_palette(select.palette(state))
        self._unsay(state)
        if draft is self._draft and model is self._model:
            return
        self._draft, self._model, self._picture = draft, model, draft.image.picture
        self._show_tabs(state)
        self._invite(model is not None and model.image is not None)
        self.text.show_text(draft.text)
        self.batch.show_text(draft.batch)
        self.chat.show_draft(draft)
        focus = QApplication.focusWidget()
        held = focus is not None and self.stack.isAncestorOf(focus)
        turned = self.stack.currentIndex() != TABS.index(draft.tab)
        self.stack.setCurrentIndex(TABS.index(draft.tab))
        if turned and held and draft.tab == "image":
            self.image.samples.setFocus(Qt.FocusReason.OtherFocusReason)  # Qt would take the first button
        self.stack.setMinimumHeight(LEAST_PX[draft.tab])
        if draft.tab == "image":
            self.image.show_draft(draft.image, model.image if model else None)
        self.summary.setVisible(draft.tab != "image")
        self.summary.show_draft(draft, model.max_positions if model else None)
        if model is not None and draft.generation != self._asked:
            self._asked = draft.generation
            self._rest.start()

    def _invite(self, paints: bool) -> None:
        """What may be written."""
        text = self.tr("Write the beginning of a text. Ctrl+Enter continues it.")
        batch = self.tr("One prompt on each line, \\n for a line break inside it. Drop a .txt or .jsonl file.")
        if paints:
            text = self.tr("Write colours such as #ff8000, one for each pixel. Ctrl+Enter paints the rest.")
            batch = self.tr("The colours of one picture on each line, such as #ff8000 #00ff00.")
        self.text.setPlaceholderText(text)
        self.batch.setPlaceholderText(batch)

    def _show_tabs(self, state: AppState) -> None:
        model = state.model
        usable = model is not None and model.has_chat_template
        reason = self.tr("No model is loaded yet.")
        if model is not None and not usable:
            reason = self.tr("{0} has no chat template, so it cannot chat.").format(model.title)
        self.tabs.setTabEnabled(1, usable)
        self.tabs.setTabToolTip(1, "" if usable else plain_tip(reason))
        paints = model is not None and model.image is not None
        if model is not None:
            reason = self.tr("{0} reads text; load an image model, such as tiny-imagegpt.").format(model.title)
        self.tabs.setTabEnabled(3, paints)
        self.tabs.setTabToolTip(3, "" if paints else plain_tip(reason))
        self.tabs.blockSignals(True)
        self.tabs.setCurrentIndex(TABS.index(state.draft.tab))
        self.tabs.blockSignals(False)

    def open_picture(self, path: Path) -> None:
        """Begin with a picture file; it is read off this thread, and what is wrong with it is said."""
        self._open(path.name, lambda: pictures.read_file(path))

    def open_image(self, image: QImage) -> None:
        """Begin with an image that was dragged here from another program."""
        name = self.tr("dropped picture")
        self._open(name, lambda: pictures.of_image(image, name))

    def _open(self, name: str, read: Callable[[], pictures.Opened]) -> None:
        self._wanted += 1
        number = self._wanted
        self._instead = self._picture
        QTimer.singleShot(SLOW_MS, self, partial(self._say_reading, number, name))
        self._files.start(read, partial(self._opened, number))

    def _edit_image(self, intent: Intent) -> None:
        """What is chosen here counts, not a file that is still being read."""
        if isinstance(intent, StartEmpty) or (isinstance(intent, StartPicture) and not intent.offered):
            self._wanted += 1
        self.dispatch(intent)

    def _say_reading(self, number: int, name: str) -> None:
        if number == self._wanted and self._files.busy:
            self._say("reading", self.tr("Reading “{0}”…").format(name[: pictures.LONGEST_NAME]))

    def _opened(self, number: int, one: pictures.Opened) -> None:
        """Unless something else was chosen, drawn or taken back meanwhile."""
        touched = self._draft is not None and self._draft.image.touched
        changed = touched and self._picture != self._instead
        if number != self._wanted or changed:
            return
        if one.picture is None:
            self.dispatch(Announce("error", one.problem))
            return
        self._picture = one.picture
        self.dispatch(StartPicture(one.picture, one.title, one.notes))
        if not isinstance(self._model, ModelInfo) or self._model.image is None:
            what = self.tr("“{0}” waits for an image model; load one, such as tiny-imagegpt.")
            self._say("waiting", what.format(one.title))

    def _say(self, about: str, text: str) -> None:
        self._said[about] = text
        self.dispatch(Announce("info", text))

    def _unsay(self, state: AppState) -> None:
        """Take back what holds no longer."""
        paints = state.model is not None and state.model.image is not None
        for about, over in (("reading", not self._files.busy), ("waiting", paints)):
            if about in self._said and over:
                text = self._said.pop(about)
                for notice in state.notices:
                    if notice.text == text:
                        self.dispatch(DismissNotice(notice.notice_id))

    def hidden(self) -> None:
        self._rest.stop()
        self._asked = -1

    @Slot()
    def _tokenize(self) -> None:
        self.dispatch(TokenizeDraft())

    @Slot(str)
    def _text_edited(self, text: str) -> None:
        self.dispatch(EditText(text, whole=self.text.replacing))

    @Slot(str)
    def _batch_edited(self, text: str) -> None:
        self.dispatch(EditBatch(text, whole=self.batch.replacing))

    @Slot(int)
    def _tab_changed(self, index: int) -> None:
        self.dispatch(SelectTab(TABS[index]))
        (self.text, self.chat.message, self.batch, self.image.open)[index].setFocus(Qt.FocusReason.OtherFocusReason)
