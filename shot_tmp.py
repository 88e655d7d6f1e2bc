import sys
from pathlib import Path
from app.offscreen import stage
from app.state import intents as i
from core.contract import CacheSpec, parse_cache

model, cache, tab, theme, w, h, out = sys.argv[1:8]
with stage(model, "cache", (int(w), int(h))) as scene:
    scene.load()
    scene.store.dispatch(i.SetTheme(theme))
    scene.store.dispatch(i.SetCache(parse_cache(cache)))
    scene.run(None, 40)
    if len(sys.argv) > 8:
        scene.experiment(sys.argv[8])
    scene.store.dispatch(i.SelectStep(20))
    p = scene.window.workspace.cards["cache"].panel
    p.tabs.setCurrentIndex(int(tab))
    for _ in range(5):
        scene.store.frame()
        scene.app.processEvents()
    scene.settle()
    scene.window.grab().save(out)
