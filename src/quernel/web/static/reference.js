// The API reference: what is typed is found, what an address names is open, and the list shows where one is.

const operations = [...document.querySelectorAll(".op")];
const find = document.getElementById("find");
const found = document.getElementById("found");
const sections = [...document.querySelectorAll("#operations > section")];
const texts = new Map();

function link(section) {
  return document.querySelector(`.finder a[href="#${section.getAttribute("aria-labelledby")}"]`);
}

function text(operation) {
  if (!texts.has(operation)) texts.set(operation, operation.textContent.toLowerCase());
  return texts.get(operation);
}

function filter() {
  const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const operation of operations) operation.hidden = !words.every((word) => text(operation).includes(word));
  for (const section of sections) {
    const left = section.querySelectorAll(".op:not([hidden])").length;
    section.hidden = link(section).hidden = !left;
    link(section).lastElementChild.textContent = left;
  }
  const count = document.querySelectorAll(".op:not([hidden]) .method").length;
  found.textContent = words.length ? `${count} of ${found.dataset.all} operations` : `${found.dataset.all} operations`;
}

function reveal() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const operation = target?.closest(".op");
  if (!operation) return;
  if (operation.hidden) {
    find.value = "";
    filter();
  }
  operation.open = true;
  operation.scrollIntoView();
}

for (const operation of operations) {
  operation.firstElementChild.addEventListener("click", () => {
    if (!operation.open) history.replaceState(null, "", `#${operation.id}`);
  });
}
const watch = new IntersectionObserver((seen) => {
  for (const { target, isIntersecting } of seen) {
    if (isIntersecting) link(target).setAttribute("aria-current", "true");
    else link(target).removeAttribute("aria-current");
  }
}, { rootMargin: "-20% 0px -79%" });
for (const section of sections) watch.observe(section);

find.addEventListener("input", filter);
window.addEventListener("hashchange", reveal);
if (find.value) filter(); // a browser that goes back fills in what was typed
reveal();
