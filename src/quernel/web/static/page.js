// What every page does besides being read: copying, tabs, and colours without a reload. Everything works without it.

function enhance(root) {
  // Browsers give pages a clipboard over TLS and on this machine alone.
  for (const block of navigator.clipboard ? root.querySelectorAll("[data-copy]") : []) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(document.getElementById(block.dataset.copy).textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
    block.append(button);
  }

  for (const group of root.querySelectorAll("[data-tabs]")) {
    const panels = [...group.querySelectorAll(":scope > [data-tab]")];
    const list = document.createElement("div");
    list.className = "tabs";
    list.setAttribute("role", "tablist");
    list.setAttribute("aria-label", group.dataset.tabs);
    const tabs = panels.map((panel, index) => {
      const tab = document.createElement("button");
      tab.type = "button";
      tab.textContent = panel.dataset.tab;
      tab.id = `${panel.id}-tab`;
      tab.setAttribute("role", "tab");
      tab.setAttribute("aria-controls", panel.id);
      panel.setAttribute("role", "tabpanel");
      panel.setAttribute("aria-labelledby", tab.id);
      panel.tabIndex = 0;
      tab.addEventListener("click", () => choose(index));
      list.append(tab);
      return tab;
    });
    const choose = (chosen) => {
      panels.forEach((panel, index) => {
        panel.hidden = index !== chosen;
        tabs[index].setAttribute("aria-selected", String(index === chosen));
        tabs[index].tabIndex = index === chosen ? 0 : -1;
      });
    };
    list.addEventListener("keydown", (event) => {
      const now = tabs.indexOf(document.activeElement);
      const to = { ArrowRight: now + 1, ArrowLeft: now - 1, Home: 0, End: tabs.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      const next = (to + tabs.length) % tabs.length;
      choose(next);
      tabs[next].focus();
    });
    group.prepend(list);
    choose(0);
  }
}

enhance(document);

// What a script has put into the page says so.
document.addEventListener("quernel:added", (event) => enhance(event.target));

// A form whose filters apply as they are changed; without scripts its button does.
for (const form of document.querySelectorAll("form[data-live]")) {
  for (const field of form.elements) {
    if (field.matches("select, input[type=checkbox]")) field.addEventListener("change", () => form.requestSubmit());
  }
}
