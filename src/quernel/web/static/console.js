// A form that must not be sent twice is not, though its button is clicked twice. The gateway sees to it as well.

for (const form of document.querySelectorAll("form[data-once]")) {
  form.addEventListener("submit", () => {
    for (const button of form.querySelectorAll("button")) button.disabled = true;
  });
}

// Coming back by history, a page is as it was left: its buttons are for another form then.
window.addEventListener("pageshow", () => {
  for (const button of document.querySelectorAll("form[data-once] button")) button.disabled = false;
});

// On a phone the navigation is a row that scrolls: this page's own name is to be seen in it.
// Not by scrollIntoView, which has the keyboard begin there rather than at the top of the page.
const here = document.querySelector(".console > nav [aria-current]");
if (here) {
  const row = here.parentElement;
  const left = here.getBoundingClientRect().left - row.getBoundingClientRect().left;
  row.scrollLeft += left - (row.clientWidth - here.offsetWidth) / 2;
}
