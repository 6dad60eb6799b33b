"""A page with notes. Start it with `streamlit run app.py`, or with lastgood around it: see README.md."""

import streamlit as st

import store

st.title("Notes")
connection = store.connect()
with st.form("add", clear_on_submit=True):
    text = st.text_input("A note")
    if st.form_submit_button("Add") and text:
        st.success(f"Note {store.add(connection, text)} is saved.")
st.metric("Notes", store.count(connection))
st.dataframe(store.newest(connection))
